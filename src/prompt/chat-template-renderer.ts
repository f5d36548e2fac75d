/**
 * Renders a Jinja chat template. Which part of the text is an answer follows from positions: `{% generation %}` blocks
 * where the template has them; else the difference between the whole text and the prompt that inference would see. Either
 * way that prompt must be the text's beginning (`history-proof.ts`).
 */
import { Template } from '@huggingface/jinja';
import type { ControlTokenMatch, Tokenizer } from '../tokenizer/tokenizer.ts';
import { differenceSpans, type RenderedText } from './answer-spans.ts';
import { assembleExample, assemblePrompt, type Block, type Layout, type Learned } from './assemble.ts';
import { changeTexts, textsOf } from './conversation-texts.ts';
import type { ChatTemplateDefinition } from './definition.ts';
import { PromptError } from './errors.ts';
import {
  generationSpans,
  hasGenerationBlocks,
  markGenerationBlocks,
  takeGenerationMarks,
} from './generation-blocks.ts';
import { checkAnswers, type HistoryProof, promptEnds } from './history-proof.ts';
import { LiteralGuard } from './literal-guard.ts';
import { checkFields, fieldsOf, type TemplateFields, templateMessage } from './message-fields.ts';
import { checkMessages, learnedMessages } from './messages.ts';
import { probeTemplate } from './probe.ts';
import type {
  Conversation,
  ExampleOptions,
  Message,
  PromptOptions,
  RenderedExample,
  RenderedPrompt,
  Renderer,
  TemplateIdentity,
} from './renderer.ts';

interface Marks {
  readonly literal: string;
  readonly open: string;
  readonly close: string;
}

export class ChatTemplateRenderer implements Renderer {
  readonly template: TemplateIdentity;
  readonly templateFile = null;
  readonly stopTokenIds: readonly number[];
  readonly stopStrings: readonly string[] = [];
  readonly answerPrefix: string;

  readonly #tokenizer: Tokenizer;
  readonly #jinja: Template;
  readonly #guard: LiteralGuard;
  readonly #hasGenerationBlocks: boolean;
  readonly #fields: TemplateFields;
  /** Tokens that the template writes behind an answer. */
  readonly #closingIds: ReadonlySet<number>;

  /** @throws PromptError where the template does not parse or refuses a plain conversation */
  constructor(tokenizer: Tokenizer, template: TemplateIdentity, definition: ChatTemplateDefinition) {
    this.template = template;
    this.#tokenizer = tokenizer;
    this.#guard = new LiteralGuard(tokenizer);
    this.#hasGenerationBlocks = hasGenerationBlocks(definition.source);
    this.#fields = fieldsOf(definition.source);
    try {
      this.#jinja = new Template(markGenerationBlocks(definition.source));
    } catch (error) {
      throw new PromptError('TEMPLATE_FAILED', `the chat template is not valid Jinja: ${errorText(error)}`, null, {
        cause: error,
      });
    }
    const [literal = '', open = '', close = ''] = this.#guard.marks(3, []);
    const probe = probeTemplate(
      (messages, generation) =>
        takeGenerationMarks(this.#render({ messages }, generation, { literal, open, close }), open, close).text,
      (text) => tokenizer.findControlTokens(text),
    );
    this.#closingIds = probe.closingIds;
    this.answerPrefix = probe.answerPrefix;
    const eos = tokenizer.eosTokenId === null ? [] : [tokenizer.eosTokenId];
    this.stopTokenIds = [...new Set([...eos, ...tokenizer.endOfGenerationTokenIds, ...this.#closingIds])];
  }

  renderTraining(messages: readonly Message[], { trainOn, tools }: ExampleOptions): RenderedExample {
    const learned = learnedMessages(messages, trainOn);
    return assembleExample(this.#tokenizer, this.#layout(conversationOf(messages, tools), false, learned), learned);
  }

  renderPrompt(messages: readonly Message[], options: PromptOptions = {}): RenderedPrompt {
    const { addGenerationPrompt = true, tools } = options;
    const layout = this.#layout(conversationOf(messages, tools), addGenerationPrompt, new Set());
    const prompt = assemblePrompt(this.#tokenizer, layout);
    return { ...prompt, text: prompt.segments.map((segment) => segment.text).join('') };
  }

  #render({ messages, tools }: Conversation, addGenerationPrompt: boolean, marks: Marks): string {
    const { specialTokens } = this.#tokenizer;
    try {
      return this.#jinja.render({
        messages: messages.map(templateMessage),
        // As in transformers: none where there are none, so that templates may ask for either.
        tools: tools ?? null,
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
  #protect(conversation: Conversation, texts: readonly string[], generation: boolean, marks: Marks): Conversation {
    const guarded = changeTexts(conversation, (text) => this.#guard.guard(text, marks.literal));
    if (!texts.some((text) => this.#guard.isSuspicious(text))) return guarded;
    // A template that cuts or replaces message text could join a control token out of its parts. Marking more than
    // occurrences is proof against that but may hide text that the template tests for; so it is used only on need.
    const strict = changeTexts(conversation, (text) => this.#guard.guardStrictly(text, marks.literal));
    const controls = (one: Conversation): string =>
      this.#tokenizer
        .findControlTokens(this.#render(one, generation, marks), marks.literal)
        .map((match) => match.id)
        .join();
    return controls(guarded) === controls(strict) ? guarded : strict;
  }

  #layout(conversation: Conversation, generation: boolean, learned: Learned): Layout {
    const { messages } = conversation;
    checkMessages(messages);
    checkFields(conversation, this.template.id, this.#fields);
    const texts = textsOf(conversation);
    const [literal = '', open = '', close = ''] = this.#guard.marks(3, texts);
    const marks: Marks = { literal, open, close };
    const tokenizer = this.#tokenizer;
    const safe = this.#protect(conversation, texts, generation, marks);
    const marked = this.#render(safe, generation, marks);
    const { text, ranges } = takeGenerationMarks(marked, open, close);
    const found = (body: string): RenderedText => {
      let controls: ControlTokenMatch[] | null = null;
      return {
        text: body,
        // Most renderings are asked for their text alone.
        get controls() {
          controls ??= tokenizer.findControlTokens(body, literal);
          return controls;
        },
      };
    };
    const rendered = found(text);
    const isClosing = (match: ControlTokenMatch): boolean => this.#closingIds.has(match.id);
    const renderFirst = (count: number, prompt: boolean): RenderedText | null => {
      const body = this.#tryRender({ ...safe, messages: safe.messages.slice(0, count) }, prompt, marks);
      return body === null ? null : found(body);
    };
    const proof: HistoryProof = { messages: safe.messages, rendered, learned, renderFirst };
    const ends = promptEnds(proof);
    const spans = this.#hasGenerationBlocks
      ? generationSpans(messages, rendered, ranges, ends, isClosing)
      : differenceSpans(proof, ends, isClosing);
    checkAnswers(proof, spans);
    const blocks: Block[] = [];
    let at = 0;
    const add = (kind: Block['kind'], messageIndex: number | null, end: number): void => {
      if (end > at) blocks.push({ kind, messageIndex, text: text.slice(at, end) });
      at = Math.max(at, end);
    };
    for (const span of spans) {
      add('prompt', null, span.promptEnd);
      add('prompt', null, span.start);
      blocks.push({ kind: 'answer', messageIndex: span.messageIndex, text: text.slice(span.start, span.end) });
      at = span.end;
      add('end', span.messageIndex, span.closingEnd);
    }
    add('prompt', null, text.length);
    return { blocks, literalMark: literal, prefixIds: [] };
  }

  /** The text without generation marks; null where the template refuses such a conversation. */
  #tryRender(conversation: Conversation, generation: boolean, marks: Marks): string | null {
    try {
      return takeGenerationMarks(this.#render(conversation, generation, marks), marks.open, marks.close).text;
    } catch (error) {
      if (error instanceof PromptError) return null;
      throw error;
    }
  }
}

const conversationOf = (messages: readonly Message[], tools: Conversation['tools']): Conversation =>
  tools === undefined || tools.length === 0 ? { messages } : { messages, tools };

const errorText = (error: unknown): string => (error instanceof Error ? error.message : String(error));
