/**
 * Proofs that a chat template shows training what it shows inference. A Jinja template may write a turn otherwise once another one follows: most
 * that know reasoning drop it from the history. An answer is learned only where neither its prompt nor the answer itself is rewritten.
 */
import type { RenderedText } from './answer-spans.ts';
import type { Learned } from './assemble.ts';
import { PromptError } from './errors.ts';
import type { Message } from './renderer.ts';

export interface HistoryProof {
  /** As rendered: with literal marks in their contents. */
  readonly messages: readonly Message[];
  readonly rendered: RenderedText;
  readonly learned: Learned;
  /** Renders the first `count` messages; null where the template refuses such a conversation. */
  readonly renderFirst: (count: number, addGenerationPrompt: boolean) => RenderedText | null;
}

const isLearned = (learned: Learned, messageIndex: number): boolean => learned !== 'all' && learned.has(messageIndex);

/** What helps: less for the last answer, which no other turn follows. */
function remedy(messages: readonly Message[], messageIndex: number): string {
  const later = messages.slice(messageIndex + 1).some(({ role }) => role === 'assistant');
  if (!later) return 'use one of the presets, or a chat template that keeps the history as it was';
  return 'use train_on `last`, give this message weight 0, or make one example per answer';
}

/**
 * For each answer, by message index, where the prompt ends that inference shows before it; null where that is no beginning of the whole text.
 *
 * @throws PromptError `PREFIX_MISMATCH` for a learned answer without such a prompt
 */
export function promptEnds({ messages, rendered, learned, renderFirst }: HistoryProof): Map<number, number | null> {
  const ends = new Map<number, number | null>();
  messages.forEach(({ role }, messageIndex) => {
    if (role !== 'assistant') return;
    if (messageIndex === 0 && isLearned(learned, 0)) {
      throw new PromptError('INVALID_MESSAGES', 'messages[0]: an answer needs a message before it', 0);
    }
    const prompt = messageIndex === 0 ? null : (renderFirst(messageIndex, true)?.text ?? null);
    const end = prompt !== null && rendered.text.startsWith(prompt) ? prompt.length : null;
    if (end === null && isLearned(learned, messageIndex)) {
      throw new PromptError(
        'PREFIX_MISMATCH',
        `messages[${messageIndex}]: the chat template writes the prompt of this answer otherwise in the whole conversation than at inference, so the answer would be learned behind a prompt that inference never shows; ${remedy(messages, messageIndex)}`,
        messageIndex,
      );
    }
    ends.set(messageIndex, end);
  });
  return ends;
}

/**
 * Makes sure that learned answers inside the conversation read as they did when they were its end, up to what closes them.
 *
 * @throws PromptError `PREFIX_MISMATCH` for one that does not
 */
export function checkAnswers(
  { messages, rendered, learned, renderFirst }: HistoryProof,
  spans: readonly { readonly messageIndex: number; readonly end: number }[],
): void {
  for (const { messageIndex, end } of spans) {
    if (!isLearned(learned, messageIndex) || messageIndex === messages.length - 1) continue;
    const alone = renderFirst(messageIndex + 1, false);
    if (alone === null) continue;
    const rest = alone.text.startsWith(rendered.text.slice(0, end)) ? alone.text.slice(end) : null;
    const blanks = rest === null ? 0 : rest.length - rest.trimStart().length;
    const closes = rest !== null && (rest.trim() === '' || alone.controls.some(({ start }) => start === end + blanks));
    if (closes) continue;
    throw new PromptError(
      'PREFIX_MISMATCH',
      `messages[${messageIndex}]: the chat template writes this answer otherwise once another turn follows (it drops reasoning from the history, say), so it would be learned in a form that inference never produces; ${remedy(messages, messageIndex)}`,
      messageIndex,
    );
  }
}
