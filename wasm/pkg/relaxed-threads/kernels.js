/* @ts-self-types="./kernels.d.ts" */

export class AttentionProbe {
    __destroy_into_raw() {
        const ptr = this.__wbg_ptr;
        this.__wbg_ptr = 0;
        AttentionProbeFinalization.unregister(this);
        return ptr;
    }
    free() {
        const ptr = this.__destroy_into_raw();
        wasm.__wbg_attentionprobe_free(ptr, 0);
    }
    /**
     * Appends `count` tokens, f32 `[count, heads + 2 * kv_heads, head_dim]`, as the cache keeps them.
     * @param {number} qkv
     * @param {number} count
     */
    append(qkv, count) {
        wasm.attentionprobe_append(this.__wbg_ptr, qkv, count);
    }
    /**
     * Attends the last `count` tokens, whose queries are in `qkv`, to `out` f32 `[count, heads, head_dim]`; with
     * `scalar` one element at a time.
     * @param {number} qkv
     * @param {number} count
     * @param {number} out
     * @param {boolean} scalar
     */
    attend(qkv, count, out, scalar) {
        wasm.attentionprobe_attend(this.__wbg_ptr, qkv, count, out, scalar);
    }
    /**
     * `kv_type` 0 f32, 1 int8; `window` 0 means that attention sees all.
     * @param {number} kv_type
     * @param {number} heads
     * @param {number} kv_heads
     * @param {number} head_dim
     * @param {number} window
     */
    constructor(kv_type, heads, kv_heads, head_dim, window) {
        const ret = wasm.attentionprobe_new(kv_type, heads, kv_heads, head_dim, window);
        this.__wbg_ptr = ret >>> 0;
        AttentionProbeFinalization.register(this, this.__wbg_ptr, this);
        return this;
    }
}
if (Symbol.dispose) AttentionProbe.prototype[Symbol.dispose] = AttentionProbe.prototype.free;

export class Engine {
    __destroy_into_raw() {
        const ptr = this.__wbg_ptr;
        this.__wbg_ptr = 0;
        EngineFinalization.unregister(this);
        return ptr;
    }
    free() {
        const ptr = this.__destroy_into_raw();
        wasm.__wbg_engine_free(ptr, 0);
    }
    /**
     * Bytes of a KV block.
     * @returns {number}
     */
    block_bytes() {
        const ret = wasm.engine_block_bytes(this.__wbg_ptr);
        return ret >>> 0;
    }
    /**
     * Fills block `index` of a sequence that `sequence_fill` made.
     * @param {number} id
     * @param {number} index
     * @param {number} from
     */
    copy_block_in(id, index, from) {
        wasm.engine_copy_block_in(this.__wbg_ptr, id, index, from);
    }
    /**
     * Copies block `index` of a sequence to `to`, with zeros for tokens that it does not have.
     * @param {number} id
     * @param {number} index
     * @param {number} to
     */
    copy_block_out(id, index, to) {
        wasm.engine_copy_block_out(this.__wbg_ptr, id, index, to);
    }
    /**
     * Runs `count` rows; `ids` u32 holds their tokens one after the other. A row's sequence is cut back to its `start`
     * first. Returns false when memory ran out: then no row was run.
     * @param {number} rows
     * @param {number} count
     * @param {number} ids
     * @returns {boolean}
     */
    forward(rows, count, ids) {
        const ret = wasm.engine_forward(this.__wbg_ptr, rows, count, ids);
        return ret !== 0;
    }
    /**
     * Where the last pass's logits are: f32, the rows' wanted positions one after the other.
     * @returns {number}
     */
    logits() {
        const ret = wasm.engine_logits(this.__wbg_ptr);
        return ret >>> 0;
    }
    /**
     * `rotary_dim` numbers of each head are turned; `window` 0 means that attention sees all; `kv` is the KV's type,
     * 0 f32, 1 int8.
     * @param {number} layers
     * @param {number} hidden
     * @param {number} intermediate
     * @param {number} heads
     * @param {number} kv_heads
     * @param {number} head_dim
     * @param {number} rotary_dim
     * @param {number} vocab
     * @param {number} epsilon
     * @param {number} window
     * @param {number} kv
     * @param {boolean} f32_activations
     */
    constructor(layers, hidden, intermediate, heads, kv_heads, head_dim, rotary_dim, vocab, epsilon, window, kv, f32_activations) {
        const ret = wasm.engine_new(layers, hidden, intermediate, heads, kv_heads, head_dim, rotary_dim, vocab, epsilon, window, kv, f32_activations);
        this.__wbg_ptr = ret >>> 0;
        EngineFinalization.register(this, this.__wbg_ptr, this);
        return this;
    }
    /**
     * Makes room for a matrix `[n, k]` in `slot`: 0 qkv, 1 output, 2 gate_up, 3 down of `layer`; 4 embedding, 5 head.
     * `weights` as in `lib.rs`. Returns false when the memory is not there.
     * @param {number} slot
     * @param {number} layer
     * @param {number} weights
     * @param {number} n
     * @param {number} k
     * @returns {boolean}
     */
    new_matrix(slot, layer, weights, n, k) {
        const ret = wasm.engine_new_matrix(this.__wbg_ptr, slot, layer, weights, n, k);
        return ret !== 0;
    }
    /**
     * Packs rows `first..first + rows` of the matrix in `slot`, on all threads; `first` is a multiple of 16. Operands and
     * result are those of `pack` in `lib.rs`.
     * @param {number} slot
     * @param {number} layer
     * @param {number} first
     * @param {number} rows
     * @param {number} qweight
     * @param {number} scales
     * @param {number} zeros
     * @param {boolean} packed_zeros
     * @returns {number}
     */
    pack_rows(slot, layer, first, rows, qweight, scales, zeros, packed_zeros) {
        const ret = wasm.engine_pack_rows(this.__wbg_ptr, slot, layer, first, rows, qweight, scales, zeros, packed_zeros);
        return ret;
    }
    /**
     * Ranks the `k` largest logits of the last pass's wanted position `position`. Returns the logarithm of the sum of
     * `exp` of all; ids u32 and logits f32 are where `ranked_ids` and `ranked_logits` say.
     * @param {number} position
     * @param {number} k
     * @returns {number}
     */
    rank(position, k) {
        const ret = wasm.engine_rank(this.__wbg_ptr, position, k);
        return ret;
    }
    /**
     * @returns {number}
     */
    ranked_ids() {
        const ret = wasm.engine_ranked_ids(this.__wbg_ptr);
        return ret >>> 0;
    }
    /**
     * @returns {number}
     */
    ranked_logits() {
        const ret = wasm.engine_ranked_logits(this.__wbg_ptr);
        return ret >>> 0;
    }
    /**
     * Makes an empty sequence one of `tokens` tokens, whose blocks the caller fills. Returns false, and changes nothing,
     * when the memory is not there.
     * @param {number} id
     * @param {number} tokens
     * @returns {boolean}
     */
    sequence_fill(id, tokens) {
        const ret = wasm.engine_sequence_fill(this.__wbg_ptr, id, tokens);
        return ret !== 0;
    }
    /**
     * A second sequence with the first `length` tokens. Blocks are shared until one of the two writes. Returns its
     * id; none when there is no memory for the list of its blocks.
     * @param {number} id
     * @param {number} length
     * @returns {number | undefined}
     */
    sequence_fork(id, length) {
        const ret = wasm.engine_sequence_fork(this.__wbg_ptr, id, length);
        return ret === 0x100000001 ? undefined : ret;
    }
    /**
     * Gives a sequence's blocks back.
     * @param {number} id
     */
    sequence_free(id) {
        wasm.engine_sequence_free(this.__wbg_ptr, id);
    }
    /**
     * An empty sequence. Returns its id.
     * @returns {number}
     */
    sequence_new() {
        const ret = wasm.engine_sequence_new(this.__wbg_ptr);
        return ret >>> 0;
    }
    /**
     * Forgets a sequence's tokens from `length` on.
     * @param {number} id
     * @param {number} length
     */
    sequence_truncate(id, length) {
        wasm.engine_sequence_truncate(this.__wbg_ptr, id, length);
    }
    /**
     * Copies rows `first..first + count` of an embedding that is not quantized, f16 where `half`, else f32; it is kept as
     * f16. The rows from 0 on make it anew. Returns 0, -1 when a value does not fit f16, -2 when the memory is not there.
     * @param {number} first
     * @param {number} count
     * @param {number} values
     * @param {boolean} half
     * @returns {number}
     */
    set_table(first, count, values, half) {
        const ret = wasm.engine_set_table(this.__wbg_ptr, first, count, values, half);
        return ret;
    }
    /**
     * Copies f32 values for `slot`: 0 input norm, 1 post-attention norm of `layer`; 2 final norm, 3 cos, 4 sin.
     * Returns false when the memory is not there.
     * @param {number} slot
     * @param {number} layer
     * @param {number} values
     * @param {number} count
     * @returns {boolean}
     */
    set_vector(slot, layer, values, count) {
        const ret = wasm.engine_set_vector(this.__wbg_ptr, slot, layer, values, count);
        return ret !== 0;
    }
    /**
     * Where the last pass's hidden states are: f32 `[tokens, hidden]`.
     * @returns {number}
     */
    states() {
        const ret = wasm.engine_states(this.__wbg_ptr);
        return ret >>> 0;
    }
    /**
     * Looks no more, and gives the memory back.
     */
    unwatch() {
        wasm.engine_unwatch(this.__wbg_ptr);
    }
    /**
     * KV blocks that sequences use, each counted once however many share it.
     * @returns {number}
     */
    used_blocks() {
        const ret = wasm.engine_used_blocks(this.__wbg_ptr);
        return ret >>> 0;
    }
    /**
     * Looks into one more layer in the passes to come.
     * @param {number} layer
     */
    watch(layer) {
        wasm.engine_watch(this.__wbg_ptr, layer);
    }
    /**
     * Where queries, keys and values of the watched layers are, as in `Watch`.
     * @returns {number}
     */
    watched_qkv() {
        const ret = wasm.engine_watched_qkv(this.__wbg_ptr);
        return ret >>> 0;
    }
    /**
     * Where the attention weights of the watched layers are, as in `Watch`.
     * @returns {number}
     */
    watched_weights() {
        const ret = wasm.engine_watched_weights(this.__wbg_ptr);
        return ret >>> 0;
    }
}
if (Symbol.dispose) Engine.prototype[Symbol.dispose] = Engine.prototype.free;

/**
 * Bytes of `m` quantized rows of `k` values.
 * @param {number} m
 * @param {number} k
 * @returns {number}
 */
export function activation_bytes(m, k) {
    const ret = wasm.activation_bytes(m, k);
    return ret >>> 0;
}

/**
 * Zeroed memory, 64-byte aligned; 0 when there is not so much. Views of the memory go stale when it grows.
 * @param {number} bytes
 * @returns {number}
 */
export function allocate(bytes) {
    const ret = wasm.allocate(bytes);
    return ret >>> 0;
}

/**
 * The dot that this engine is fastest with, of those that are exact for such weights.
 * @param {number} weights
 * @returns {number}
 */
export function choose_dot(weights) {
    const ret = wasm.choose_dot(weights);
    return ret >>> 0;
}

/**
 * Sends all helpers home and goes on alone.
 */
export function dismiss() {
    wasm.dismiss();
}

/**
 * Whether `matmul` has a kernel for full tiles of that height.
 * @param {number} dot
 * @param {number} weights
 * @param {number} tile
 * @param {boolean} expand
 * @returns {boolean}
 */
export function has_kernel(dot, weights, tile, expand) {
    const ret = wasm.has_kernel(dot, weights, tile, expand);
    return ret !== 0;
}

/**
 * Helps with the coordinator's tasks as thread number `thread`, 1 and up, until `dismiss`.
 * @param {number} thread
 */
export function help(thread) {
    wasm.help(thread);
}

/**
 * For the thread whose `help` trapped in a task: the coordinator need not wait for it, and traps too.
 */
export function help_failed() {
    wasm.help_failed();
}

/**
 * `result` f32 `[m, n]`, the columns of panels `from..until` of 16: quantized rows times the packed matrix.
 * @param {number} dot
 * @param {number} weights
 * @param {number} w
 * @param {number} n
 * @param {number} x
 * @param {number} m
 * @param {number} k
 * @param {number} tile
 * @param {boolean} expand
 * @param {number} result
 * @param {number} from
 * @param {number} until
 */
export function matmul(dot, weights, w, n, x, m, k, tile, expand, result, from, until) {
    wasm.matmul(dot, weights, w, n, x, m, k, tile, expand, result, from, until);
}

/**
 * `result` f32 `[m, n]`: f32 rows `[m, k]`, not quantized, times the packed matrix; with `scalar` without SIMD.
 * @param {number} weights
 * @param {number} w
 * @param {number} n
 * @param {number} x
 * @param {number} m
 * @param {number} k
 * @param {number} result
 * @param {boolean} scalar
 */
export function matmul_f32(weights, w, n, x, m, k, result, scalar) {
    wasm.matmul_f32(weights, w, n, x, m, k, result, scalar);
}

/**
 * `matmul` of `lib.rs`, all panels, shared among the threads.
 * @param {number} dot
 * @param {number} weights
 * @param {number} w
 * @param {number} n
 * @param {number} x
 * @param {number} m
 * @param {number} k
 * @param {number} tile
 * @param {boolean} expand
 * @param {number} result
 */
export function matmul_shared(dot, weights, w, n, x, m, k, tile, expand, result) {
    wasm.matmul_shared(dot, weights, w, n, x, m, k, tile, expand, result);
}

/**
 * Bytes of a packed matrix `[n, k]`, `k % 32 == 0`.
 * @param {number} weights
 * @param {number} n
 * @param {number} k
 * @returns {number}
 */
export function matrix_bytes(weights, n, k) {
    const ret = wasm.matrix_bytes(weights, n, k);
    return ret >>> 0;
}

/**
 * Another `Dot` that is right for such weights and may be faster.
 * @param {number} weights
 * @returns {number | undefined}
 */
export function other_dot(weights) {
    const ret = wasm.other_dot(weights);
    return ret === 0x100000001 ? undefined : ret;
}

/**
 * Packs a matrix `[n, k]`: u8 `[n, k/32, 16]` (int4) or `[n, k/32, 32]` (int8, zero point 128), f32 scales
 * `[n, k/32]`, and for affine int4 `zeros`: f32 `[n, k/32]`, or u8 `[n, ceil(k/64)]` where `packed_zeros`.
 * Returns how many scales and minima f16 had to round, -1 when it cannot hold one.
 * @param {number} weights
 * @param {number} n
 * @param {number} k
 * @param {number} qweight
 * @param {number} scales
 * @param {number} zeros
 * @param {boolean} packed_zeros
 * @param {number} to
 * @returns {number}
 */
export function pack(weights, n, k, qweight, scales, zeros, packed_zeros, to) {
    const ret = wasm.pack(weights, n, k, qweight, scales, zeros, packed_zeros, to);
    return ret;
}

/**
 * Quantizes the tiles of f32 `[m, k]` that begin in rows `from..until`, in tiles of `tile` (1, 2) rows.
 * @param {number} x
 * @param {number} m
 * @param {number} k
 * @param {number} tile
 * @param {number} to
 * @param {number} from
 * @param {number} until
 */
export function quantize_rows(x, m, k, tile, to, from, until) {
    wasm.quantize_rows(x, m, k, tile, to, from, until);
}

/**
 * `read_memory` of `bytes`, a multiple of 128, shared among the threads.
 * @param {number} pointer
 * @param {number} bytes
 * @returns {number}
 */
export function read_shared(pointer, bytes) {
    const ret = wasm.read_shared(pointer, bytes);
    return ret;
}

/**
 * Takes back what `allocate(bytes)` gave.
 * @param {number} pointer
 * @param {number} bytes
 */
export function release(pointer, bytes) {
    wasm.release(pointer, bytes);
}

/**
 * `matmul` of all panels, without SIMD. Gives the same bits.
 * @param {number} weights
 * @param {number} w
 * @param {number} n
 * @param {number} x
 * @param {number} m
 * @param {number} k
 * @param {number} tile
 * @param {number} result
 */
export function scalar_matmul(weights, w, n, x, m, k, tile, result) {
    wasm.scalar_matmul(weights, w, n, x, m, k, tile, result);
}

/**
 * `pack`, without SIMD. Gives the same bytes.
 * @param {number} weights
 * @param {number} n
 * @param {number} k
 * @param {number} qweight
 * @param {number} scales
 * @param {number} zeros
 * @param {boolean} packed_zeros
 * @param {number} to
 * @returns {number}
 */
export function scalar_pack(weights, n, k, qweight, scales, zeros, packed_zeros, to) {
    const ret = wasm.scalar_pack(weights, n, k, qweight, scales, zeros, packed_zeros, to);
    return ret;
}

/**
 * `quantize_rows` of all rows, without SIMD. Gives the same bytes.
 * @param {number} x
 * @param {number} m
 * @param {number} k
 * @param {number} tile
 * @param {number} to
 */
export function scalar_quantize_rows(x, m, k, tile, to) {
    wasm.scalar_quantize_rows(x, m, k, tile, to);
}

/**
 * Whether the kernels of `dot` give the scalar product's bits on this engine.
 * @param {number} dot
 * @param {number} weights
 * @returns {boolean}
 */
export function self_test(dot, weights) {
    const ret = wasm.self_test(dot, weights);
    return ret !== 0;
}

/**
 * Says how many threads there are, at most 128. Each of the others has called `help`, or will.
 * @param {number} threads
 */
export function set_threads(threads) {
    wasm.set_threads(threads);
}
function __wbg_get_imports(memory) {
    const import0 = {
        __proto__: null,
        __wbg___wbindgen_throw_6b64449b9b9ed33c: function(arg0, arg1) {
            throw new Error(getStringFromWasm0(arg0, arg1));
        },
        __wbg_now_099ba6970c1c787c: function() {
            const ret = performance.now();
            return ret;
        },
        __wbindgen_init_externref_table: function() {
            const table = wasm.__wbindgen_externrefs;
            const offset = table.grow(4);
            table.set(0, undefined);
            table.set(offset + 0, undefined);
            table.set(offset + 1, null);
            table.set(offset + 2, true);
            table.set(offset + 3, false);
        },
        memory: memory || new WebAssembly.Memory({initial:18,maximum:65536,shared:true}),
    };
    return {
        __proto__: null,
        "./kernels_bg.js": import0,
    };
}

const AttentionProbeFinalization = (typeof FinalizationRegistry === 'undefined')
    ? { register: () => {}, unregister: () => {} }
    : new FinalizationRegistry(ptr => wasm.__wbg_attentionprobe_free(ptr >>> 0, 1));
const EngineFinalization = (typeof FinalizationRegistry === 'undefined')
    ? { register: () => {}, unregister: () => {} }
    : new FinalizationRegistry(ptr => wasm.__wbg_engine_free(ptr >>> 0, 1));

function getStringFromWasm0(ptr, len) {
    ptr = ptr >>> 0;
    return decodeText(ptr, len);
}

let cachedUint8ArrayMemory0 = null;
function getUint8ArrayMemory0() {
    if (cachedUint8ArrayMemory0 === null || cachedUint8ArrayMemory0.buffer !== wasm.memory.buffer) {
        cachedUint8ArrayMemory0 = new Uint8Array(wasm.memory.buffer);
    }
    return cachedUint8ArrayMemory0;
}

let cachedTextDecoder = (typeof TextDecoder !== 'undefined' ? new TextDecoder('utf-8', { ignoreBOM: true, fatal: true }) : undefined);
if (cachedTextDecoder) cachedTextDecoder.decode();

const MAX_SAFARI_DECODE_BYTES = 2146435072;
let numBytesDecoded = 0;
function decodeText(ptr, len) {
    numBytesDecoded += len;
    if (numBytesDecoded >= MAX_SAFARI_DECODE_BYTES) {
        cachedTextDecoder = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true });
        cachedTextDecoder.decode();
        numBytesDecoded = len;
    }
    return cachedTextDecoder.decode(getUint8ArrayMemory0().slice(ptr, ptr + len));
}

let wasmModule, wasm;
function __wbg_finalize_init(instance, module, thread_stack_size) {
    wasm = instance.exports;
    wasmModule = module;
    cachedUint8ArrayMemory0 = null;
    if (typeof thread_stack_size !== 'undefined' && (typeof thread_stack_size !== 'number' || thread_stack_size === 0 || thread_stack_size % 65536 !== 0)) {
        throw new Error('invalid stack size');
    }

    wasm.__wbindgen_start(thread_stack_size);
    return wasm;
}

async function __wbg_load(module, imports) {
    if (typeof Response === 'function' && module instanceof Response) {
        if (typeof WebAssembly.instantiateStreaming === 'function') {
            try {
                return await WebAssembly.instantiateStreaming(module, imports);
            } catch (e) {
                const validResponse = module.ok && expectedResponseType(module.type);

                if (validResponse && module.headers.get('Content-Type') !== 'application/wasm') {
                    console.warn("`WebAssembly.instantiateStreaming` failed because your server does not serve Wasm with `application/wasm` MIME type. Falling back to `WebAssembly.instantiate` which is slower. Original error:\n", e);

                } else { throw e; }
            }
        }

        const bytes = await module.arrayBuffer();
        return await WebAssembly.instantiate(bytes, imports);
    } else {
        const instance = await WebAssembly.instantiate(module, imports);

        if (instance instanceof WebAssembly.Instance) {
            return { instance, module };
        } else {
            return instance;
        }
    }

    function expectedResponseType(type) {
        switch (type) {
            case 'basic': case 'cors': case 'default': return true;
        }
        return false;
    }
}

function initSync(module, memory) {
    if (wasm !== undefined) return wasm;

    let thread_stack_size
    if (module !== undefined) {
        if (Object.getPrototypeOf(module) === Object.prototype) {
            ({module, memory, thread_stack_size} = module)
        } else {
            console.warn('using deprecated parameters for `initSync()`; pass a single object instead')
        }
    }

    const imports = __wbg_get_imports(memory);
    if (!(module instanceof WebAssembly.Module)) {
        module = new WebAssembly.Module(module);
    }
    const instance = new WebAssembly.Instance(module, imports);
    return __wbg_finalize_init(instance, module, thread_stack_size);
}

async function __wbg_init(module_or_path, memory) {
    if (wasm !== undefined) return wasm;

    let thread_stack_size
    if (module_or_path !== undefined) {
        if (Object.getPrototypeOf(module_or_path) === Object.prototype) {
            ({module_or_path, memory, thread_stack_size} = module_or_path)
        } else {
            console.warn('using deprecated parameters for the initialization function; pass a single object instead')
        }
    }

    if (module_or_path === undefined) {
        module_or_path = new URL('kernels_bg.wasm', import.meta.url);
    }
    const imports = __wbg_get_imports(memory);

    if (typeof module_or_path === 'string' || (typeof Request === 'function' && module_or_path instanceof Request) || (typeof URL === 'function' && module_or_path instanceof URL)) {
        module_or_path = fetch(module_or_path);
    }

    const { instance, module } = await __wbg_load(await module_or_path, imports);

    return __wbg_finalize_init(instance, module, thread_stack_size);
}

export { initSync, __wbg_init as default };
