/**
 * Renders a Jinja chat template. Which part of the text is an answer follows from positions: `{% generation %}` blocks
 * where the template has them; else the difference between the whole text and the prompt that inference would see, which
 * must be the text's beginning.
 */
import { Template } from '@huggingface/jinja';
import type { ControlTokenMatch, Tokenizer } from '../tokenizer/tokenizer.ts';
import { assembleExample, assemblePrompt, type Block, type Layout, type Learned } from './assemble.ts';
import type { ChatTemplateDefinition } from './definition.ts';
import { PromptError } from './errors.ts';
import { LiteralGuard } from './literal-guard.ts';
import { checkMessages, learnedMessages } from './messages.ts';
import type {
  Message,
  PromptOptions,
  RenderedExample,
  RenderedPrompt,
  Renderer,
  TemplateIdentity,
  TrainingOptions,
} from './renderer.ts';

/** Where an answer stands in the rendered text; `end` is empty where no closing token follows. */
interface AnswerSpan {
  readonly messageIndex: number;
  readonly start: number;
  readonly end: number;
  readonly closingEnd: number;
}

interface Marks {
  readonly literal: string;
  readonly open: string;
  readonly close: string;
}

const PROBE: readonly Message[] = [
  { role: 'user', content: 'first question' },
  { role: 'assistant', content: 'first answer' },
  { role: 'user', content: 'second question' },
  { role: 'assistant', content: 'second answer' },
];

/** Replaces `{% generation %}` by marks; `{% if true %}` keeps the whitespace rules of block tags. */
function markGenerationBlocks(source: string): string {
  const mark = (name: string) => (_: string, left: string, right: string) =>
    `{%${left} if true %}{{ ${name} }}{% endif ${right}%}`;
  return source
    .replace(/\{%([-+]?)\s*generation\s*([-+]?)%\}/g, mark('generation_open'))
    .replace(/\{%([-+]?)\s*endgeneration\s*([-+]?)%\}/g, mark('generation_close'));
}

export class ChatTemplateRenderer implements Renderer {
  readonly template: TemplateIdentity;
  readonly stopTokenIds: readonly number[];
  readonly stopStrings: readonly string[] = [];
  readonly answerPrefix = '';

  readonly #tokenizer: Tokenizer;
  readonly #jinja: Template;
  readonly #guard: LiteralGuard;
  readonly #hasGenerationBlocks: boolean;
  /** Tokens that the template writes behind an answer. */
  readonly #closingIds: ReadonlySet<number>;

  /** @throws PromptError where the template does not parse or refuses a plain conversation */
  constructor(tokenizer: Tokenizer, template: TemplateIdentity, definition: ChatTemplateDefinition) {
    this.template = template;
    this.#tokenizer = tokenizer;
    this.#guard = new LiteralGuard(tokenizer);
    this.#hasGenerationBlocks = /\{%[-+]?\s*generation\s*[-+]?%\}/.test(definition.source);
    try {
      this.#jinja = new Template(markGenerationBlocks(definition.source));
    } catch (error) {
      throw new PromptError('TEMPLATE_FAILED', `the chat template is not valid Jinja: ${errorText(error)}`, null, {
        cause: error,
      });
    }
    this.#closingIds = this.#probeClosingTokens();
    const eos = tokenizer.eosTokenId === null ? [] : [tokenizer.eosTokenId];
    this.stopTokenIds = [...new Set([...eos, ...tokenizer.endOfGenerationTokenIds, ...this.#closingIds])];
  }

  renderTraining(messages: readonly Message[], options: TrainingOptions): RenderedExample {
    checkMessages(messages);
    const learned = learnedMessages(messages, options.trainOn);
    return assembleExample(this.#tokenizer, this.#layout(messages, false, learned), learned);
  }

  renderPrompt(messages: readonly Message[], options: PromptOptions = {}): RenderedPrompt {
    checkMessages(messages);
    const layout = this.#layout(messages, options.addGenerationPrompt ?? true, new Set());
    const prompt = assemblePrompt(this.#tokenizer, layout);
    return { ...prompt, text: prompt.segments.map((segment) => segment.text).join('') };
  }

  #render(messages: readonly Message[], addGenerationPrompt: boolean, marks: Marks): string {
    const { specialTokens } = this.#tokenizer;
    try {
      return this.#jinja.render({
        messages: messages.map(({ role, content }) => ({ role, content })),
        add_generation_prompt: addGenerationPrompt,
        // Templates add these to strings: absent tokens are empty, as in transformers' undefined.
        bos_token: specialTokens.bos_token ?? '',
        eos_token: specialTokens.eos_token ?? '',
        unk_token: specialTokens.unk_token ?? '',
        pad_token: specialTokens.pad_token ?? '',
        generation_open: marks.open,
        generation_close: marks.close,
      });
    } catch (error) {
      throw new PromptError('TEMPLATE_FAILED', `the chat template refused the messages: ${errorText(error)}`, null, {
        cause: error,
      });
    }
  }

  /** Marks the messages so that their text stays text, whatever the template does with it. */
  #protect(messages: readonly Message[], generation: boolean, marks: Marks): Message[] {
    const guarded = messages.map((message) => ({
      ...message,
      content: this.#guard.guard(message.content, marks.literal),
    }));
    if (!messages.some((message) => this.#guard.isSuspicious(message.content))) return guarded;
    // A template that cuts or replaces message text could join a control token out of its parts. Marking more than
    // occurrences is proof against that but may hide text that the template tests for; so it is used only on need.
    const strict = messages.map((message) => ({
      ...message,
      content: this.#guard.guardStrictly(message.content, marks.literal),
    }));
    const controls = (list: readonly Message[]): string =>
      this.#tokenizer
        .findControlTokens(this.#render(list, generation, marks), marks.literal)
        .map((match) => match.id)
        .join();
    return controls(guarded) === controls(strict) ? guarded : strict;
  }

  #layout(messages: readonly Message[], generation: boolean, learned: Learned): Layout {
    const [literal = '', open = '', close = ''] = this.#guard.marks(
      3,
      messages.map((message) => message.content),
    );
    const marks: Marks = { literal, open, close };
    const safe = this.#protect(messages, generation, marks);
    const marked = this.#render(safe, generation, marks);
    const spans = this.#hasGenerationBlocks
      ? this.#generationSpans(messages, marked, marks)
      : this.#differenceSpans(safe, marked, learned, marks);
    const text = marked.replaceAll(open, '').replaceAll(close, '');
    const blocks: Block[] = [];
    let at = 0;
    const add = (kind: Block['kind'], messageIndex: number | null, end: number): void => {
      if (end > at) blocks.push({ kind, messageIndex, text: text.slice(at, end) });
      at = Math.max(at, end);
    };
    for (const span of spans) {
      add('prompt', null, span.start);
      blocks.push({ kind: 'answer', messageIndex: span.messageIndex, text: text.slice(span.start, span.end) });
      at = span.end;
      add('end', span.messageIndex, span.closingEnd);
    }
    add('prompt', null, text.length);
    return { blocks, literalMark: literal, prefixIds: [] };
  }

  /** Answers as the template's `{% generation %}` blocks mark them, one for each assistant message. */
  #generationSpans(messages: readonly Message[], marked: string, marks: Marks): AnswerSpan[] {
    const ranges: { start: number; end: number }[] = [];
    let removed = 0;
    let start = -1;
    for (let at = 0; at < marked.length; at++) {
      const character = marked[at];
      if (character !== marks.open && character !== marks.close) continue;
      if (character === marks.open) start = at - removed;
      else ranges.push({ start, end: at - removed });
      removed += 1;
    }
    const answers = messages.flatMap((message, index) => (message.role === 'assistant' ? [index] : []));
    if (answers.length !== ranges.length) {
      throw new PromptError(
        'TEMPLATE_FAILED',
        `the chat template has marked ${ranges.length} generation blocks for ${answers.length} assistant messages; expected one for each`,
      );
    }
    const text = marked.replaceAll(marks.open, '').replaceAll(marks.close, '');
    const controls = this.#tokenizer.findControlTokens(text, marks.literal);
    return ranges.map((range, index) => {
      const messageIndex = answers[index] ?? 0;
      // The closing token may stand inside the block or right behind it.
      const closing = controls.find((match) => match.start >= range.start && this.#closingIds.has(match.id));
      const near = closing && closing.start <= range.end && text.slice(closing.end, range.end).trim() === '';
      if (!near) return { messageIndex, start: range.start, end: range.end, closingEnd: range.end };
      return { messageIndex, start: range.start, end: closing.start, closingEnd: closing.end };
    });
  }

  /** Answers as what stands behind the prompt of their turn. */
  #differenceSpans(messages: readonly Message[], text: string, learned: Learned, marks: Marks): AnswerSpan[] {
    const controls = this.#tokenizer.findControlTokens(text, marks.literal);
    const starts = messages.flatMap((message, messageIndex) => {
      if (message.role !== 'assistant') return [];
      const prompt = this.#promptOf(messages, messageIndex, marks);
      if (prompt !== null && text.startsWith(prompt)) return [{ messageIndex, start: prompt.length }];
      if (learned === 'all' || !learned.has(messageIndex)) return [];
      throw new PromptError(
        'PREFIX_MISMATCH',
        `messages[${messageIndex}]: the chat template writes the prompt of this answer otherwise in the whole conversation than at inference, so the answer would be learned behind a prompt that inference never shows; use train_on \`last\`, give this message weight 0, or make one example per answer`,
        messageIndex,
      );
    });
    return starts.flatMap(({ messageIndex, start }, index) => {
      const limit = starts[index + 1]?.start ?? text.length;
      const span = this.#answerEnd(messages, messageIndex, text, controls, start, limit, marks);
      if (span) return [span];
      if (learned === 'all' || !learned.has(messageIndex)) return [];
      throw new PromptError(
        'PREFIX_MISMATCH',
        `messages[${messageIndex}]: the end of this answer cannot be told from the template's text; use a chat template with {% generation %} blocks or one that closes answers with a token`,
        messageIndex,
      );
    });
  }

  /** What inference renders before this answer; null where the template refuses such a conversation. */
  #promptOf(messages: readonly Message[], messageIndex: number, marks: Marks): string | null {
    if (messageIndex === 0) return null;
    try {
      return this.#render(messages.slice(0, messageIndex), true, marks);
    } catch (error) {
      if (error instanceof PromptError) return null;
      throw error;
    }
  }

  #answerEnd(
    messages: readonly Message[],
    messageIndex: number,
    text: string,
    controls: readonly ControlTokenMatch[],
    start: number,
    limit: number,
    marks: Marks,
  ): AnswerSpan | null {
    const closing = controls.find(
      (match) => match.start >= start && match.end <= limit && this.#closingIds.has(match.id),
    );
    if (closing) return { messageIndex, start, end: closing.start, closingEnd: closing.end };
    // No closing token: the answer ends where the message's own text ends.
    const content = messages[messageIndex]?.content ?? '';
    const blanks = text.length - start - text.slice(start).trimStart().length;
    for (const [from, body] of [
      [start, content],
      [start + blanks, content.trimStart()],
      [start + blanks, content.trim()],
    ] as const) {
      if (text.startsWith(body, from) && from + body.length <= limit) {
        const end = from + body.replaceAll(marks.literal, '').length === from ? from : from + body.length;
        return { messageIndex, start, end, closingEnd: end };
      }
    }
    return null;
  }

  /**
   * The control tokens that stand right behind an answer, inside a conversation and at its end. A template that ends a
   * conversation without one closes answers with EOS as a label only.
   */
  #probeClosingTokens(): ReadonlySet<number> {
    const [literal = '', open = '', close = ''] = this.#guard.marks(3, []);
    const text = this.#render(PROBE, false, { literal, open, close }).replaceAll(open, '').replaceAll(close, '');
    const controls = this.#tokenizer.findControlTokens(text, literal);
    const behind = (answer: string): number | null => {
      const at = text.lastIndexOf(answer);
      if (at < 0) return null;
      const end = at + answer.length;
      const next = controls.find((match) => match.start >= end);
      return next && text.slice(end, next.start).trim() === '' ? next.id : null;
    };
    const last = behind('second answer');
    const inside = behind('first answer');
    if (last === null) return new Set();
    return new Set(inside === null ? [last] : [last, inside]);
  }
}

const errorText = (error: unknown): string => (error instanceof Error ? error.message : String(error));
