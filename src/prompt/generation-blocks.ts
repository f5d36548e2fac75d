/** `{% generation %}` blocks: how a chat template says itself what an answer is. */
import type { ControlTokenMatch } from '../tokenizer/tokenizer.ts';
import type { AnswerSpan, RenderedText } from './answer-spans.ts';
import { PromptError } from './errors.ts';
import type { Message } from './renderer.ts';

/** Whether a template has generation blocks. */
export const hasGenerationBlocks = (source: string): boolean => /\{%[-+]?\s*generation\s*[-+]?%\}/.test(source);

/**
 * Replaces the tags of generation blocks by the variables `generation_open` and `generation_close`; `{% if true %}`
 * around them keeps the whitespace rules of block tags.
 */
export function markGenerationBlocks(source: string): string {
  const mark = (name: string) => (_: string, left: string, right: string) =>
    `{%${left} if true %}{{ ${name} }}{% endif ${right}%}`;
  return source
    .replace(/\{%([-+]?)\s*generation\s*([-+]?)%\}/g, mark('generation_open'))
    .replace(/\{%([-+]?)\s*endgeneration\s*([-+]?)%\}/g, mark('generation_close'));
}

interface Range {
  readonly start: number;
  readonly end: number;
}

/** Takes the two marks out of a text; gives the text and what stood between each pair of marks. */
export function takeGenerationMarks(marked: string, open: string, close: string): { text: string; ranges: Range[] } {
  // Most templates have no blocks.
  if (!marked.includes(open) && !marked.includes(close)) return { text: marked, ranges: [] };
  const ranges: Range[] = [];
  let text = '';
  let start = 0;
  for (const part of marked.split(new RegExp(`([${open}${close}])`, 'u'))) {
    if (part === open) start = text.length;
    else if (part === close) ranges.push({ start, end: text.length });
    else text += part;
  }
  return { text, ranges };
}

/**
 * One answer for each block, in the order of the assistant messages. The closing token may stand inside the block or
 * right behind it; it is part of what is learned either way. What the prompt holds already is not.
 *
 * @param ends By message index: where the prompt of the answer ends; null where it is not known.
 * @throws PromptError where blocks and assistant messages do not match in number
 */
export function generationSpans(
  messages: readonly Message[],
  rendered: RenderedText,
  ranges: readonly Range[],
  ends: ReadonlyMap<number, number | null>,
  isClosing: (match: ControlTokenMatch) => boolean,
): AnswerSpan[] {
  const answers = messages.flatMap((message, index) => (message.role === 'assistant' ? [index] : []));
  if (answers.length !== ranges.length) {
    throw new PromptError(
      'TEMPLATE_FAILED',
      `the chat template has marked ${ranges.length} generation blocks for ${answers.length} assistant messages; expected one for each`,
    );
  }
  return ranges.map(({ start, end }, index) => {
    const messageIndex = answers[index] ?? 0;
    const known = ends.get(messageIndex) ?? start;
    const promptEnd = Math.min(known, end);
    const span = { messageIndex, promptEnd, start: Math.max(start, promptEnd) };
    const closing = rendered.controls.find((match) => match.start >= start && isClosing(match));
    const closes = closing && closing.start <= end && rendered.text.slice(closing.end, end).trim() === '';
    if (!closes) return { ...span, end, closingEnd: end };
    return { ...span, end: Math.max(closing.start, span.start), closingEnd: closing.end };
  });
}
