/** Where answers stand in a rendered conversation, for templates that do not say so themselves. */
import type { ControlTokenMatch } from '../tokenizer/tokenizer.ts';
import { PromptError } from './errors.ts';
import type { HistoryProof } from './history-proof.ts';

/**
 * An answer is `[start, end)` of the text, the token that closes it `[end, closingEnd)`: empty where there is none. What inference shows ends at
 * `promptEnd`, at or before `start`.
 */
export interface AnswerSpan {
  readonly messageIndex: number;
  readonly promptEnd: number;
  readonly start: number;
  readonly end: number;
  readonly closingEnd: number;
}

export interface RenderedText {
  readonly text: string;
  readonly controls: readonly ControlTokenMatch[];
}

/**
 * Answers as what stands behind the prompt of their turn.
 *
 * @param ends By message index: where that prompt ends; null where it is not known.
 * @throws PromptError `PREFIX_MISMATCH` for a learned answer whose end cannot be told
 */
export function differenceSpans(
  proof: HistoryProof,
  ends: ReadonlyMap<number, number | null>,
  isClosing: (match: ControlTokenMatch) => boolean,
): AnswerSpan[] {
  const { rendered, learned } = proof;
  const starts = [...ends].flatMap(([messageIndex, start]) => (start === null ? [] : [{ messageIndex, start }]));
  return starts.flatMap(({ messageIndex, start }, index) => {
    const limit = starts[index + 1]?.start ?? rendered.text.length;
    const span = answerEnd(proof, isClosing, messageIndex, start, limit);
    if (span) return [span];
    if (learned === 'all' || !learned.has(messageIndex)) return [];
    throw new PromptError(
      'PREFIX_MISMATCH',
      `messages[${messageIndex}]: the end of this answer cannot be told from the template's text; use a chat template with {% generation %} blocks or one that closes answers with a token`,
      messageIndex,
    );
  });
}

/** The answer that starts at `start` ends at its closing token, or else where the message's own text ends. */
function answerEnd(
  { messages, rendered }: HistoryProof,
  isClosing: (match: ControlTokenMatch) => boolean,
  messageIndex: number,
  start: number,
  limit: number,
): AnswerSpan | null {
  const { text, controls } = rendered;
  const span = { messageIndex, promptEnd: start, start };
  const closing = controls.find((match) => match.start >= start && match.end <= limit && isClosing(match));
  if (closing) return { ...span, end: closing.start, closingEnd: closing.end };
  const message = messages[messageIndex];
  // Calls and reasoning stand around the content: its end is not theirs.
  if (message?.toolCalls || message?.reasoningContent !== undefined) return null;
  const content = message?.content ?? '';
  const blanks = text.length - start - text.slice(start).trimStart().length;
  const candidates = [
    { from: start, body: content },
    { from: start + blanks, body: content.trimStart() },
    { from: start + blanks, body: content.trim() },
  ];
  const found = candidates.find(({ from, body }) => text.startsWith(body, from) && from + body.length <= limit);
  if (!found) return null;
  const end = found.from + found.body.length;
  return { ...span, end, closingEnd: end };
}
