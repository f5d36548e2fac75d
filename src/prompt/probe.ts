/** What a chat template does with answers, seen from a plain conversation. */
import type { ControlTokenMatch } from '../tokenizer/tokenizer.ts';
import type { Message } from './renderer.ts';

const PROBE: readonly Message[] = [
  { role: 'user', content: 'first question' },
  { role: 'assistant', content: 'first answer' },
  { role: 'user', content: 'second question' },
  { role: 'assistant', content: 'second answer' },
];

export interface TemplateProbe {
  /** Control tokens with which the template closes answers; empty where it has none. */
  readonly closingIds: ReadonlySet<number>;
  /** Whitespace between the prompt and the answer's own text. */
  readonly answerPrefix: string;
}

/**
 * Closing tokens are those right behind an answer at the end of a conversation and inside it. A template that ends a
 * conversation without one closes answers with EOS as a label only. So does one that closes the last answer alone: the
 * token behind an answer inside the conversation then opens the next turn.
 */
export function probeTemplate(
  render: (messages: readonly Message[], addGenerationPrompt: boolean) => string,
  findControlTokens: (text: string) => ControlTokenMatch[],
): TemplateProbe {
  const text = render(PROBE, false);
  const controls = findControlTokens(text);
  const behind = (answer: string): ControlTokenMatch | null => {
    const at = text.lastIndexOf(answer);
    if (at < 0) return null;
    const end = at + answer.length;
    const next = controls.find((match) => match.start >= end);
    return next && text.slice(end, next.start).trim() === '' ? next : null;
  };
  const closingIds = new Set<number>();
  const last = behind('second answer');
  const inside = behind('first answer');
  if (last) closingIds.add(last.id);
  if (last && inside) {
    const question = text.lastIndexOf('second question');
    const between = controls.filter((match) => match.start >= inside.start && match.end <= question);
    if (between.length > 1) closingIds.add(inside.id);
  }
  return { closingIds, answerPrefix: answerPrefix(text, render(PROBE.slice(0, 3), true)) };
}

function answerPrefix(text: string, prompt: string): string {
  if (!text.startsWith(prompt)) return '';
  const before = text.slice(prompt.length, text.lastIndexOf('second answer'));
  return before.trim() === '' ? before : '';
}
