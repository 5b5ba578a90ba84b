import type { FinishReason } from "../sampling/finish_reason.ts";
import type { SamplingParams } from "../sampling/sampling_params.ts";

/** One message as a session keeps it. */
export interface StoredMessage {
  role: string;
  content: string;
  /** Where in the transcript's ids its content stands as it was sampled, `[from, to)`; absent: encode the text. */
  span?: [from: number, to: number];
}

/** {@linkcode SamplingParams} as JSON has it. */
export type StoredSampling = Omit<SamplingParams, "seed" | "logitBias"> & {
  seed: number | null;
  logitBias: [id: number, bias: number][];
};

/** One committed turn. Its ids are those from the end of the turn before. */
export interface TurnRecord {
  /** Where its prompt ends and what was sampled begins, in the transcript's ids. */
  replyStart: number;
  /** Where it ends, exclusive. */
  end: number;
  /** Messages of the transcript up to its end; 0 where the prompt was not messages. */
  messagesEnd: number;
  /** `"aborted"`: cut and kept, as asked. `"rewound"`: cut by a rewind into the middle of it. */
  finishReason: FinishReason | "aborted" | "rewound";
  sampling: StoredSampling;
  /** When it was committed, in milliseconds since 1970. */
  at: number;
}

/** The one way a transcript changes: keep the first of each, then append. JSON as it stands. */
export interface TranscriptDelta {
  keep: { ids: number; messages: number; turns: number };
  ids: number[];
  messages: StoredMessage[];
  turns: TurnRecord[];
}

/** What a turn comes to, before it is a delta. */
export interface TurnOutcome {
  promptIds: readonly number[];
  replyIds: readonly number[];
  /** The whole conversation with the answer as its last message; empty where the prompt was not messages. */
  messages: readonly StoredMessage[];
  finishReason: TurnRecord["finishReason"];
  sampling: StoredSampling;
  at: number;
}

/** The durable part of a session: its token ids, and which turns and messages they are. */
export class Transcript {
  readonly ids: number[] = [];
  readonly messages: StoredMessage[] = [];
  readonly turns: TurnRecord[] = [];

  /** What its turns were made of; `undefined` before the first. */
  get kind(): "messages" | "ids" | undefined {
    if (this.turns.length === 0) return undefined;
    return this.messages.length > 0 ? "messages" : "ids";
  }

  /** @throws {RangeError} when the delta keeps more than there is, or its turns do not fit its ids and messages */
  apply(delta: TranscriptDelta): void {
    this.#check(delta);
    this.ids.length = delta.keep.ids;
    for (const id of delta.ids) this.ids.push(id);
    this.messages.length = delta.keep.messages;
    this.messages.push(...delta.messages);
    this.turns.length = delta.keep.turns;
    this.turns.push(...delta.turns);
  }

  /** The first turns as one delta onto nothing. @param turns all when absent */
  snapshot(turns: number = this.turns.length): TranscriptDelta {
    const last = this.turns[turns - 1];
    return {
      keep: { ids: 0, messages: 0, turns: 0 },
      ids: this.ids.slice(0, last?.end ?? 0),
      messages: this.messages.slice(0, last?.messagesEnd ?? 0),
      turns: this.turns.slice(0, turns),
    };
  }

  /** The delta of a turn: earlier turns stay as far as its prompt repeats them, ids and words. */
  turnDelta(outcome: TurnOutcome): TranscriptDelta {
    const { promptIds, replyIds, messages, finishReason, sampling, at } = outcome;
    const ids = [...promptIds, ...replyIds];
    const keptIds = commonLength(this.ids, ids, (a, b) => a === b);
    const keptMessages = commonLength(this.messages, messages, sameStored);
    // A turn that the prompt does not go beyond is the one that this turn replaces.
    const changed = this.turns.findIndex((turn) =>
      turn.end > keptIds || turn.end >= promptIds.length || turn.messagesEnd > keptMessages ||
      (messages.length > 0) !== (turn.messagesEnd > 0)
    );
    return {
      keep: { ids: keptIds, messages: keptMessages, turns: changed < 0 ? this.turns.length : changed },
      ids: ids.slice(keptIds),
      messages: messages.slice(keptMessages),
      turns: [{
        replyStart: promptIds.length,
        end: ids.length,
        messagesEnd: messages.length,
        finishReason,
        sampling,
        at,
      }],
    };
  }

  #check({ keep, ids, messages, turns }: TranscriptDelta): void {
    const held = { ids: this.ids.length, messages: this.messages.length, turns: this.turns.length };
    for (const part of ["ids", "messages", "turns"] as const) {
      if (keep[part] <= held[part]) continue;
      throw new RangeError(`Cannot change the transcript: keep ${keep[part]} ${part}, it has ${held[part]}`);
    }
    const totalIds = keep.ids + ids.length;
    const totalMessages = keep.messages + messages.length;
    let [end, messagesEnd] = [0, 0];
    const all = [...this.turns.slice(0, keep.turns), ...turns];
    for (const turn of all) {
      const inOrder = turn.replyStart >= end && turn.end >= turn.replyStart && turn.messagesEnd >= messagesEnd;
      if (!inOrder) throw new RangeError(`Cannot change the transcript: a turn ends at ${turn.end} after ${end}`);
      // A session is of one kind, and every turn of messages has said one.
      if ((turn.messagesEnd > 0) !== (totalMessages > 0)) {
        throw new RangeError(
          `Cannot change the transcript: a turn ends at message ${turn.messagesEnd}, of ${totalMessages}`,
        );
      }
      [end, messagesEnd] = [turn.end, turn.messagesEnd];
    }
    if (end !== totalIds || messagesEnd !== totalMessages) {
      throw new RangeError(
        `Cannot change the transcript: its turns have ${end} ids and ${messagesEnd} messages, ` +
          `wanted ${totalIds} and ${totalMessages}`,
      );
    }
    let owner = 0;
    for (const [i, { span }] of messages.entries()) {
      while (all[owner]!.messagesEnd <= keep.messages + i) owner++;
      // Within its own turn, which may be the last one that is kept, or forked.
      if (span && !(span[0] <= span[1] && span[1] <= all[owner]!.end)) {
        throw new RangeError(`Cannot change the transcript: a message has the ids ${span[0]} to ${span[1]}`);
      }
    }
  }
}

/** How many of the first items agree. */
export function commonLength<A, B>(a: readonly A[], b: readonly B[], same: (a: A, b: B) => boolean): number {
  const limit = Math.min(a.length, b.length);
  let length = 0;
  while (length < limit && same(a[length]!, b[length]!)) length++;
  return length;
}

/** Whether two messages say the same. */
export const sameWords = (a: { role: string; content: string }, b: { role: string; content: string }): boolean =>
  a.role === b.role && a.content === b.content;

const sameStored = (a: StoredMessage, b: StoredMessage) =>
  sameWords(a, b) && a.span?.[0] === b.span?.[0] && a.span?.[1] === b.span?.[1];

/** Sampling parameters as they are stored. */
export function storedSampling({ seed, logitBias, ...rest }: SamplingParams): StoredSampling {
  return { ...rest, seed: seed ?? null, logitBias: [...logitBias] };
}
