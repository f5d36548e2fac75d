/** What happens to examples that are longer than the limit. */
import type { Conversation, Message } from '../prompt/renderer.ts';

/**
 * `error`: the data set is refused. `truncate`: the end is cut off. `drop_rounds`: the oldest whole rounds go, system messages at the start stay.
 * `drop`: the example is left out.
 */
export type OverLength = 'error' | 'truncate' | 'drop_rounds' | 'drop';

/** What the policy did, in examples. */
export interface OverLengthCounts {
  readonly truncated: number;
  readonly shortened: number;
  readonly dropped: number;
}

interface Rounds {
  /** System messages before the first round. */
  readonly head: readonly Message[];
  /** A round begins with each user message; what stands before the first one belongs to it. */
  readonly rounds: readonly (readonly Message[])[];
}

/** Cuts a conversation into its rounds. */
export function roundsOf(messages: readonly Message[]): Rounds {
  const first = messages.findIndex(({ role }) => role !== 'system');
  const body = first < 0 ? [] : messages.slice(first);
  const rounds: Message[][] = [];
  for (const message of body) {
    const current = rounds.at(-1);
    const begins = message.role === 'user' && current?.some(({ role }) => role === 'user');
    if (current === undefined || begins) rounds.push([message]);
    else current.push(message);
  }
  return { head: messages.slice(0, messages.length - body.length), rounds };
}

/** The conversation without its `count` oldest rounds. */
export function withoutOldestRounds(conversation: Conversation, count: number): Conversation {
  const { head, rounds } = roundsOf(conversation.messages);
  return { ...conversation, messages: [...head, ...rounds.slice(count).flat()] };
}

/** The counts in words, for people; empty where nothing happened. */
export function overLengthWarnings(counts: OverLengthCounts, limit: number): string[] {
  const sentence = (count: number, what: string): string[] => (count === 0 ? [] : [`${count} examples ${what}`]);
  return [
    ...sentence(counts.truncated, `were longer than ${limit} tokens: their end was cut off`),
    ...sentence(counts.shortened, `were longer than ${limit} tokens: their oldest rounds were left out`),
    ...sentence(counts.dropped, `were left out: longer than ${limit} tokens, or nothing to learn within them`),
  ];
}
