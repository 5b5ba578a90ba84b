/* tslint:disable */
/* eslint-disable */

export class AttentionProbe {
    free(): void;
    [Symbol.dispose](): void;
    /**
     * Appends `count` tokens, f32 `[count, heads + 2 * kv_heads, head_dim]`, as the cache keeps them.
     */
    append(qkv: number, count: number): void;
    /**
     * Attends the last `count` tokens, whose queries are in `qkv`, to `out` f32 `[count, heads, head_dim]`; with
     * `scalar` one element at a time.
     */
    attend(qkv: number, count: number, out: number, scalar: boolean): void;
    /**
     * `kv_type` 0 f32, 1 int8; `window` 0 means that attention sees all.
     */
    constructor(kv_type: number, heads: number, kv_heads: number, head_dim: number, window: number);
}

export class Engine {
    free(): void;
    [Symbol.dispose](): void;
    /**
     * Bytes of a KV block.
     */
    block_bytes(): number;
    /**
     * Fills block `index` of a sequence that `sequence_fill` made.
     */
    copy_block_in(id: number, index: number, from: number): void;
    /**
     * Copies block `index` of a sequence to `to`, with zeros for tokens that it does not have.
     */
    copy_block_out(id: number, index: number, to: number): void;
    /**
     * Runs `count` rows; `ids` u32 holds their tokens one after the other. A row's sequence is cut back to its `start`
     * first. Returns false when memory ran out: then no row was run.
     */
    forward(rows: number, count: number, ids: number): boolean;
    /**
     * Where the last pass's logits are: f32, the rows' wanted positions one after the other.
     */
    logits(): number;
    /**
     * `rotary_dim` numbers of each head are turned; `window` 0 means that attention sees all; `kv` is the KV's type,
     * 0 f32, 1 int8.
     */
    constructor(layers: number, hidden: number, intermediate: number, heads: number, kv_heads: number, head_dim: number, rotary_dim: number, vocab: number, epsilon: number, window: number, kv: number, f32_activations: boolean);
    /**
     * Makes room for a matrix `[n, k]` in `slot`: 0 qkv, 1 output, 2 gate_up, 3 down of `layer`; 4 embedding, 5 head.
     * `weights` as in `lib.rs`. Returns false when the memory is not there.
     */
    new_matrix(slot: number, layer: number, weights: number, n: number, k: number): boolean;
    /**
     * Packs rows `first..first + rows` of the matrix in `slot`, on all threads; `first` is a multiple of 16. Operands and
     * result are those of `pack` in `lib.rs`.
     */
    pack_rows(slot: number, layer: number, first: number, rows: number, qweight: number, scales: number, zeros: number, packed_zeros: boolean): number;
    /**
     * Ranks the `k` largest logits of the last pass's wanted position `position`. Returns the logarithm of the sum of
     * `exp` of all; ids u32 and logits f32 are where `ranked_ids` and `ranked_logits` say.
     */
    rank(position: number, k: number): number;
    ranked_ids(): number;
    ranked_logits(): number;
    /**
     * Makes an empty sequence one of `tokens` tokens, whose blocks the caller fills. Returns false, and changes nothing,
     * when the memory is not there.
     */
    sequence_fill(id: number, tokens: number): boolean;
    /**
     * A second sequence with the first `length` tokens. Blocks are shared until one of the two writes. Returns its
     * id; none when there is no memory for the list of its blocks.
     */
    sequence_fork(id: number, length: number): number | undefined;
    /**
     * Gives a sequence's blocks back.
     */
    sequence_free(id: number): void;
    /**
     * An empty sequence. Returns its id.
     */
    sequence_new(): number;
    /**
     * Forgets a sequence's tokens from `length` on.
     */
    sequence_truncate(id: number, length: number): void;
    /**
     * Copies rows `first..first + count` of an embedding that is not quantized, f16 where `half`, else f32; it is kept as
     * f16. The rows from 0 on make it anew. Returns 0, -1 when a value does not fit f16, -2 when the memory is not there.
     */
    set_table(first: number, count: number, values: number, half: boolean): number;
    /**
     * Copies f32 values for `slot`: 0 input norm, 1 post-attention norm of `layer`; 2 final norm, 3 cos, 4 sin.
     * Returns false when the memory is not there.
     */
    set_vector(slot: number, layer: number, values: number, count: number): boolean;
    /**
     * Where the last pass's hidden states are: f32 `[tokens, hidden]`.
     */
    states(): number;
    /**
     * Looks no more, and gives the memory back.
     */
    unwatch(): void;
    /**
     * KV blocks that sequences use, each counted once however many share it.
     */
    used_blocks(): number;
    /**
     * Looks into one more layer in the passes to come.
     */
    watch(layer: number): void;
    /**
     * Where queries, keys and values of the watched layers are, as in `Watch`.
     */
    watched_qkv(): number;
    /**
     * Where the attention weights of the watched layers are, as in `Watch`.
     */
    watched_weights(): number;
}

/**
 * Bytes of `m` quantized rows of `k` values.
 */
export function activation_bytes(m: number, k: number): number;

/**
 * Zeroed memory, 64-byte aligned; 0 when there is not so much. Views of the memory go stale when it grows.
 */
export function allocate(bytes: number): number;

/**
 * The dot that this engine is fastest with, of those that are exact for such weights.
 */
export function choose_dot(weights: number): number;

/**
 * Sends all helpers home and goes on alone.
 */
export function dismiss(): void;

/**
 * Whether `matmul` has a kernel for full tiles of that height.
 */
export function has_kernel(dot: number, weights: number, tile: number, expand: boolean): boolean;

/**
 * Helps with the coordinator's tasks as thread number `thread`, 1 and up, until `dismiss`.
 */
export function help(thread: number): void;

/**
 * For the thread whose `help` trapped in a task: the coordinator need not wait for it, and traps too.
 */
export function help_failed(): void;

/**
 * `result` f32 `[m, n]`, the columns of panels `from..until` of 16: quantized rows times the packed matrix.
 */
export function matmul(dot: number, weights: number, w: number, n: number, x: number, m: number, k: number, tile: number, expand: boolean, result: number, from: number, until: number): void;

/**
 * `result` f32 `[m, n]`: f32 rows `[m, k]`, not quantized, times the packed matrix; with `scalar` without SIMD.
 */
export function matmul_f32(weights: number, w: number, n: number, x: number, m: number, k: number, result: number, scalar: boolean): void;

/**
 * `matmul` of `lib.rs`, all panels, shared among the threads.
 */
export function matmul_shared(dot: number, weights: number, w: number, n: number, x: number, m: number, k: number, tile: number, expand: boolean, result: number): void;

/**
 * Bytes of a packed matrix `[n, k]`, `k % 32 == 0`.
 */
export function matrix_bytes(weights: number, n: number, k: number): number;

/**
 * Another `Dot` that is right for such weights and may be faster.
 */
export function other_dot(weights: number): number | undefined;

/**
 * Packs a matrix `[n, k]`: u8 `[n, k/32, 16]` (int4) or `[n, k/32, 32]` (int8, zero point 128), f32 scales
 * `[n, k/32]`, and for affine int4 `zeros`: f32 `[n, k/32]`, or u8 `[n, ceil(k/64)]` where `packed_zeros`.
 * Returns how many scales and minima f16 had to round, -1 when it cannot hold one.
 */
export function pack(weights: number, n: number, k: number, qweight: number, scales: number, zeros: number, packed_zeros: boolean, to: number): number;

/**
 * Quantizes the tiles of f32 `[m, k]` that begin in rows `from..until`, in tiles of `tile` (1, 2) rows.
 */
export function quantize_rows(x: number, m: number, k: number, tile: number, to: number, from: number, until: number): void;

/**
 * `read_memory` of `bytes`, a multiple of 128, shared among the threads.
 */
export function read_shared(pointer: number, bytes: number): number;

/**
 * Takes back what `allocate(bytes)` gave.
 */
export function release(pointer: number, bytes: number): void;

/**
 * `matmul` of all panels, without SIMD. Gives the same bits.
 */
export function scalar_matmul(weights: number, w: number, n: number, x: number, m: number, k: number, tile: number, result: number): void;

/**
 * `pack`, without SIMD. Gives the same bytes.
 */
export function scalar_pack(weights: number, n: number, k: number, qweight: number, scales: number, zeros: number, packed_zeros: boolean, to: number): number;

/**
 * `quantize_rows` of all rows, without SIMD. Gives the same bytes.
 */
export function scalar_quantize_rows(x: number, m: number, k: number, tile: number, to: number): void;

/**
 * Whether the kernels of `dot` give the scalar product's bits on this engine.
 */
export function self_test(dot: number, weights: number): boolean;

/**
 * Says how many threads there are, at most 128. Each of the others has called `help`, or will.
 */
export function set_threads(threads: number): void;

export type InitInput = RequestInfo | URL | Response | BufferSource | WebAssembly.Module;

export interface InitOutput {
    readonly __wbg_attentionprobe_free: (a: number, b: number) => void;
    readonly __wbg_engine_free: (a: number, b: number) => void;
    readonly activation_bytes: (a: number, b: number) => number;
    readonly allocate: (a: number) => number;
    readonly attentionprobe_append: (a: number, b: number, c: number) => void;
    readonly attentionprobe_attend: (a: number, b: number, c: number, d: number, e: number) => void;
    readonly attentionprobe_new: (a: number, b: number, c: number, d: number, e: number) => number;
    readonly choose_dot: (a: number) => number;
    readonly dismiss: () => void;
    readonly engine_block_bytes: (a: number) => number;
    readonly engine_copy_block_in: (a: number, b: number, c: number, d: number) => void;
    readonly engine_copy_block_out: (a: number, b: number, c: number, d: number) => void;
    readonly engine_forward: (a: number, b: number, c: number, d: number) => number;
    readonly engine_logits: (a: number) => number;
    readonly engine_new: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number, i: number, j: number, k: number, l: number) => number;
    readonly engine_new_matrix: (a: number, b: number, c: number, d: number, e: number, f: number) => number;
    readonly engine_pack_rows: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number, i: number) => number;
    readonly engine_rank: (a: number, b: number, c: number) => number;
    readonly engine_ranked_ids: (a: number) => number;
    readonly engine_ranked_logits: (a: number) => number;
    readonly engine_sequence_fill: (a: number, b: number, c: number) => number;
    readonly engine_sequence_fork: (a: number, b: number, c: number) => number;
    readonly engine_sequence_free: (a: number, b: number) => void;
    readonly engine_sequence_new: (a: number) => number;
    readonly engine_sequence_truncate: (a: number, b: number, c: number) => void;
    readonly engine_set_table: (a: number, b: number, c: number, d: number, e: number) => number;
    readonly engine_set_vector: (a: number, b: number, c: number, d: number, e: number) => number;
    readonly engine_states: (a: number) => number;
    readonly engine_unwatch: (a: number) => void;
    readonly engine_used_blocks: (a: number) => number;
    readonly engine_watch: (a: number, b: number) => void;
    readonly engine_watched_qkv: (a: number) => number;
    readonly engine_watched_weights: (a: number) => number;
    readonly has_kernel: (a: number, b: number, c: number, d: number) => number;
    readonly help: (a: number) => void;
    readonly help_failed: () => void;
    readonly matmul: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number, i: number, j: number, k: number, l: number) => void;
    readonly matmul_f32: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => void;
    readonly matmul_shared: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number, i: number, j: number) => void;
    readonly matrix_bytes: (a: number, b: number, c: number) => number;
    readonly other_dot: (a: number) => number;
    readonly pack: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => number;
    readonly quantize_rows: (a: number, b: number, c: number, d: number, e: number, f: number, g: number) => void;
    readonly read_shared: (a: number, b: number) => number;
    readonly release: (a: number, b: number) => void;
    readonly scalar_matmul: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => void;
    readonly scalar_pack: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => number;
    readonly scalar_quantize_rows: (a: number, b: number, c: number, d: number, e: number) => void;
    readonly self_test: (a: number, b: number) => number;
    readonly set_threads: (a: number) => void;
    readonly memory: WebAssembly.Memory;
    readonly __wbindgen_externrefs: WebAssembly.Table;
    readonly __wbindgen_start: () => void;
}

export type SyncInitInput = BufferSource | WebAssembly.Module;

/**
 * Instantiates the given `module`, which can either be bytes or
 * a precompiled `WebAssembly.Module`.
 *
 * @param {{ module: SyncInitInput, memory?: WebAssembly.Memory }} module - Passing `SyncInitInput` directly is deprecated.
 * @param {WebAssembly.Memory} memory - Deprecated.
 *
 * @returns {InitOutput}
 */
export function initSync(module: { module: SyncInitInput, memory?: WebAssembly.Memory } | SyncInitInput, memory?: WebAssembly.Memory): InitOutput;

/**
 * If `module_or_path` is {RequestInfo} or {URL}, makes a request and
 * for everything else, calls `WebAssembly.instantiate` directly.
 *
 * @param {{ module_or_path: InitInput | Promise<InitInput>, memory?: WebAssembly.Memory }} module_or_path - Passing `InitInput` directly is deprecated.
 * @param {WebAssembly.Memory} memory - Deprecated.
 *
 * @returns {Promise<InitOutput>}
 */
export default function __wbg_init (module_or_path?: { module_or_path: InitInput | Promise<InitInput>, memory?: WebAssembly.Memory } | InitInput | Promise<InitInput>, memory?: WebAssembly.Memory): Promise<InitOutput>;
