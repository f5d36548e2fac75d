/** Where answers stand in a rendered conversation, for templates that do not say so themselves. */
import type { ControlTokenMatch } from '../tokenizer/tokenizer.ts';
import type { Learned } from './assemble.ts';
import { PromptError } from './errors.ts';
import type { Message } from './renderer.ts';

/** An answer is `[start, end)` of the text, the token that closes it `[end, closingEnd)`: empty where there is none. */
export interface AnswerSpan {
  readonly messageIndex: number;
  readonly start: number;
  readonly end: number;
  readonly closingEnd: number;
}

export interface RenderedText {
  readonly text: string;
  readonly controls: readonly ControlTokenMatch[];
}

export interface DifferenceInput {
  /** As rendered: with literal marks in their contents. */
  readonly messages: readonly Message[];
  readonly rendered: RenderedText;
  readonly learned: Learned;
  /** What inference renders before the answer; null where the template refuses such a conversation. */
  readonly promptBefore: (messageIndex: number) => string | null;
  readonly isClosing: (match: ControlTokenMatch) => boolean;
}

/**
 * Answers as what stands behind the prompt of their turn, which the whole text must start with. That is the proof that
 * an answer is learned behind the very prompt that inference shows.
 *
 * @throws PromptError `PREFIX_MISMATCH` for a learned answer without that proof, or whose end cannot be told
 */
export function differenceSpans(input: DifferenceInput): AnswerSpan[] {
  const { messages, rendered, learned } = input;
  const isLearned = (messageIndex: number): boolean => learned !== 'all' && learned.has(messageIndex);
  const starts = messages.flatMap((message, messageIndex) => {
    if (message.role !== 'assistant') return [];
    if (messageIndex === 0 && isLearned(0)) {
      throw new PromptError('INVALID_MESSAGES', 'messages[0]: an answer needs a message before it', 0);
    }
    const prompt = messageIndex === 0 ? null : input.promptBefore(messageIndex);
    if (prompt !== null && rendered.text.startsWith(prompt)) return [{ messageIndex, start: prompt.length }];
    if (!isLearned(messageIndex)) return [];
    throw new PromptError(
      'PREFIX_MISMATCH',
      `messages[${messageIndex}]: the chat template writes the prompt of this answer otherwise in the whole conversation than at inference, so the answer would be learned behind a prompt that inference never shows; use train_on \`last\`, give this message weight 0, or make one example per answer`,
      messageIndex,
    );
  });
  return starts.flatMap(({ messageIndex, start }, index) => {
    const limit = starts[index + 1]?.start ?? rendered.text.length;
    const span = answerEnd(input, messageIndex, start, limit);
    if (span) return [span];
    if (!isLearned(messageIndex)) return [];
    throw new PromptError(
      'PREFIX_MISMATCH',
      `messages[${messageIndex}]: the end of this answer cannot be told from the template's text; use a chat template with {% generation %} blocks or one that closes answers with a token`,
      messageIndex,
    );
  });
}

/** The answer that starts at `start` ends at its closing token, or else where the message's own text ends. */
function answerEnd(input: DifferenceInput, messageIndex: number, start: number, limit: number): AnswerSpan | null {
  const { text, controls } = input.rendered;
  const closing = controls.find((match) => match.start >= start && match.end <= limit && input.isClosing(match));
  if (closing) return { messageIndex, start, end: closing.start, closingEnd: closing.end };
  const content = input.messages[messageIndex]?.content ?? '';
  const blanks = text.length - start - text.slice(start).trimStart().length;
  const candidates = [
    { from: start, body: content },
    { from: start + blanks, body: content.trimStart() },
    { from: start + blanks, body: content.trim() },
  ];
  const found = candidates.find(({ from, body }) => text.startsWith(body, from) && from + body.length <= limit);
  if (!found) return null;
  const end = found.from + found.body.length;
  return { messageIndex, start, end, closingEnd: end };
}
