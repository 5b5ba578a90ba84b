import type { Backend } from "../backend/backend.ts";
import { reusablePrefix, sameIds } from "./common_prefix.ts";
import type { KvOffer, KvTiers } from "./kv_tiers.ts";
import { Session } from "./session.ts";

/** Ids that prompts of all tenants may begin with, and who holds their KV: a session without a name, when it is idle. */
interface PublicPrefix {
  ids: readonly number[];
  holder: Session;
}

/**
 * Prefixes that the operator declared public: the only KV that tenants share, and only as far as declared. One is taken
 * from the first turn that evaluates it, and evicted like idle sessions' KV; the next such turn brings it back. All of it
 * matches or nothing, so that nobody finds out its words one by one.
 */
export class PublicPrefixes {
  readonly #backend: Backend;
  readonly #tiers: KvTiers;
  /** Longest first. */
  #prefixes: PublicPrefix[] = [];

  constructor(backend: Backend, tiers: KvTiers) {
    this.#backend = backend;
    this.#tiers = tiers;
  }

  /** @throws {RangeError} when a prefix has no ids, or the budget no room for its KV and a session that shares it */
  requireRoom(ids: readonly number[]): void {
    if (ids.length === 0) throw new RangeError("it has no tokens");
    const bytes = 2 * this.#backend.kvBytes(ids.length + 1);
    const budget = this.#tiers.hotBudgetBytes;
    if (bytes <= budget) return;
    throw new RangeError(
      `its ${ids.length} tokens take ${bytes} bytes of KV, once here and once in a session: the budget is ${budget}`,
    );
  }

  /** Says which prefixes are public, in place of those before. New ones have no KV as yet. */
  replace(prefixes: readonly (readonly number[])[]): void {
    const before = this.#prefixes;
    this.#prefixes = [];
    for (const ids of prefixes) {
      if (this.#prefixes.some((other) => sameIds(other.ids, ids))) continue;
      this.#prefixes.push(
        before.find((old) => sameIds(old.ids, ids)) ?? { ids: [...ids], holder: new Session(undefined) },
      );
    }
    this.#prefixes.sort((a, b) => b.ids.length - a.ids.length);
    for (const prefix of before) {
      if (this.#prefixes.includes(prefix)) continue;
      prefix.holder.closed = true;
      if (prefix.holder.lock.free) this.#tiers.drop(prefix.holder);
    }
  }

  /** The longest public prefix of a prompt that there is KV of. */
  offer(promptIds: readonly number[]): KvOffer | undefined {
    if (!this.#backend.info.kvShares) return undefined;
    const prefix = this.#prefixes.find((prefix) =>
      prefix.holder.kv.state === "hot" && prefix.holder.lock.free && begins(prefix, promptIds)
    );
    return prefix && {
      tokens: prefix.ids.length,
      isPublic: true,
      give: ({ kv }) => {
        kv.cache = prefix.holder.kv.cache!.fork();
        for (const id of prefix.ids) kv.ids.push(id);
        this.#tiers.release(prefix.holder);
      },
    };
  }

  /**
   * What takes the longest public prefix of a prompt from a session that evaluated it; `undefined` where it is held, or
   * there is none. To be called while the session is held and in no pass.
   */
  keeper(promptIds: readonly number[]): ((session: Session) => Promise<void>) | undefined {
    const prefix = this.#prefixes.find((prefix) => begins(prefix, promptIds));
    if (!prefix || !this.#backend.info.kvShares || prefix.holder.kv.state !== "cold") return undefined;
    return (session) => this.#keep(prefix, session);
  }

  async #keep({ ids, holder }: PublicPrefix, { kv }: Session): Promise<void> {
    const wanted = () => !holder.closed && kv.state === "hot" && kv.ids.length >= ids.length;
    // A turn that did not come so far has nothing to make room for.
    const hold = wanted() ? holder.lock.tryWork() : undefined;
    if (!hold) return;
    try {
      if (holder.kv.state !== "cold") return;
      this.#tiers.drop(holder);
      await this.#tiers.whenRoom(this.#backend.kvBytes(ids.length), () => {
        if (!wanted()) return;
        holder.kv.cache = kv.cache!.fork(ids.length);
        for (const id of ids) holder.kv.ids.push(id);
        this.#tiers.release(holder);
      });
    } finally {
      hold.release();
    }
  }
}

/** Whether a prompt begins with a prefix, and goes on: a token is left to evaluate. */
const begins = ({ ids }: PublicPrefix, promptIds: readonly number[]) => reusablePrefix(ids, promptIds) === ids.length;
