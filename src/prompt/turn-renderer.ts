/** Renders templates that write a conversation turn by turn: rounds, instruction and answer, role tokens, plain concatenation. */
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { assembleExample, assemblePrompt, type Block, type Layout } from './assemble.ts';
import { strip, stripEnd } from './blanks.ts';
import { type TurnTemplateDefinition, templateFileText } from './definition.ts';
import { PromptError } from './errors.ts';
import { LiteralGuard } from './literal-guard.ts';
import { checkFields, TEXT_ONLY } from './message-fields.ts';
import { checkMessages, learnedMessages } from './messages.ts';
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
import { countOf, type PatternPart } from './text-pattern.ts';
import { type TurnTexts, turnTexts } from './turn-texts.ts';

export class TurnRenderer implements Renderer {
  readonly template: TemplateIdentity;
  readonly templateFile: string;
  readonly stopTokenIds: readonly number[];
  readonly stopStrings: readonly string[];
  readonly answerPrefix: string;

  readonly #tokenizer: Tokenizer;
  readonly #definition: TurnTemplateDefinition;
  readonly #texts: TurnTexts;
  readonly #guard: LiteralGuard;
  readonly #prefixIds: readonly number[];
  readonly #systemInside: boolean;

  /** @throws PromptError where the tokenizer lacks a token of the template, or EOS where that is what ends answers */
  constructor(tokenizer: Tokenizer, template: TemplateIdentity, definition: TurnTemplateDefinition) {
    this.template = template;
    this.templateFile = templateFileText(template.id, template.version, definition);
    this.#tokenizer = tokenizer;
    this.#definition = definition;
    this.#texts = turnTexts(template.id, tokenizer, definition);
    this.#guard = new LiteralGuard(tokenizer);
    this.#systemInside = countOf(this.#texts.user, 'system') > 0;
    this.answerPrefix = this.#texts.answerPrefix;
    const ends = [tokenizer.eosTokenId, ...tokenizer.endOfGenerationTokenIds, this.#texts.end?.id ?? null];
    this.stopTokenIds = [...new Set(ends.filter((id) => id !== null))];
    this.stopStrings = definition.stop;
    const bos = tokenizer.bosTokenId === null ? [] : [tokenizer.bosTokenId];
    this.#prefixIds = { always: bos, tokenizer: tokenizer.prefixTokenIds, never: [] }[definition.bos];
  }

  renderTraining(messages: readonly Message[], options: ExampleOptions): RenderedExample {
    this.#checkTurns(messages, options.tools);
    if (messages.at(-1)?.role !== 'assistant') {
      const last = messages.length - 1;
      throw new PromptError(
        'INVALID_MESSAGES',
        `messages[${last}]: a training example must end with an assistant message`,
        last,
      );
    }
    const learned = learnedMessages(messages, options.trainOn);
    const first = messages.findIndex((message) => message.role === 'assistant');
    if (this.#definition.bareFirstTurn && learned !== 'all' && learned.has(first) && first < messages.length - 1) {
      throw new PromptError(
        'PREFIX_MISMATCH',
        `messages[${first}]: template ${this.template.id} writes a first question without its round header until it is answered, so the first answer of a longer conversation would be learned behind a prompt that inference never shows; use train_on \`last\`, give this message weight 0, or make one example per answer`,
        first,
      );
    }
    return assembleExample(this.#tokenizer, this.#layout(messages, false), learned);
  }

  renderPrompt(messages: readonly Message[], options: PromptOptions = {}): RenderedPrompt {
    this.#checkTurns(messages, options.tools);
    const generation = options.addGenerationPrompt ?? true;
    if (generation && messages.at(-1)?.role !== 'user') {
      const last = messages.length - 1;
      throw new PromptError(
        'INVALID_MESSAGES',
        `messages[${last}]: a prompt must end with a user message for an answer to follow`,
        last,
      );
    }
    const prompt = assemblePrompt(this.#tokenizer, this.#layout(messages, generation));
    return { ...prompt, text: prompt.segments.map((segment) => segment.text).join('') };
  }

  /** One optional system message, then user and assistant in turn. */
  #checkTurns(messages: readonly Message[], tools: Conversation['tools']): void {
    checkMessages(messages);
    checkFields(tools && tools.length > 0 ? { messages, tools } : { messages }, this.template.id, TEXT_ONLY);
    const start = messages[0]?.role === 'system' ? 1 : 0;
    if (start === 1 && this.#definition.system === null) {
      throw new PromptError(
        'INVALID_MESSAGES',
        `messages[0]: template ${this.template.id} has no place for a system message; write its text into the first question, or choose another template`,
        0,
      );
    }
    messages.slice(start).forEach((message, offset) => {
      const expected = offset % 2 === 0 ? 'user' : 'assistant';
      if (message.role !== expected) {
        const index = start + offset;
        throw new PromptError(
          'INVALID_MESSAGES',
          `messages[${index}].role is ${message.role}; template ${this.template.id} expects user and assistant in turn, here ${expected}`,
          index,
        );
      }
    });
  }

  #layout(messages: readonly Message[], generation: boolean): Layout {
    const { bareFirstTurn, firstRound, defaultSystem } = this.#definition;
    const texts = this.#texts;
    const contents = messages.map((message) => message.content);
    const literalMark = this.#guard.marks(1, [...contents, defaultSystem ?? ''])[0] ?? '';
    // The mark stands there without text, too: the template's own texts never join across a message.
    const literal = (text: string): string => literalMark + this.#guard.guardStrictly(text, literalMark);
    const fill = (parts: readonly PatternPart[], values: Readonly<Record<string, string>>): string =>
      parts.map((part) => ('text' in part ? part.text : (values[part.name] ?? ''))).join('');

    const bare = bareFirstTurn && messages.filter((message) => message.role === 'user').length === 1;
    const [first] = messages;
    const systemMessage = first?.role === 'system' ? first.content : defaultSystem;
    const system =
      systemMessage === null || texts.system === null
        ? ''
        : fill(texts.system, { content: literal(this.#systemInside ? systemMessage : this.#trim(systemMessage)) });
    const blocks: Block[] = [];
    let prompt = this.#systemInside ? '' : system;
    let round = firstRound;
    messages.forEach((message, messageIndex) => {
      if (message.role === 'user') {
        const inside = this.#systemInside && round === firstRound ? system : '';
        // Published code trims the question together with the system text in front of it.
        const content = literal(inside === '' ? this.#trim(message.content) : this.#trimEnd(message.content));
        const answered = generation || messageIndex + 1 < messages.length;
        const parts = answered ? texts.user : this.#questionOnly(texts.user);
        prompt += bare ? content : fill(parts, { content, n: String(round), system: inside });
        round += 1;
      } else if (message.role === 'assistant') {
        const [prefix, suffix] = bare ? ['', ''] : [texts.answerPrefix, texts.answerSuffix];
        blocks.push({ kind: 'prompt', messageIndex: null, text: prompt });
        blocks.push({ kind: 'answer', messageIndex, text: prefix + literal(this.#trim(message.content)) + suffix });
        if (texts.end) blocks.push({ kind: 'end', messageIndex, text: texts.end.text });
        prompt = messageIndex + 1 < messages.length ? texts.separator : '';
      }
    });
    if (prompt.length > 0) blocks.push({ kind: 'prompt', messageIndex: null, text: prompt });
    return { blocks, literalMark, prefixIds: this.#prefixIds };
  }

  /** Without what stands between the question and its answer. */
  #questionOnly(parts: readonly PatternPart[]): readonly PatternPart[] {
    return parts.slice(0, parts.findIndex((part) => 'name' in part && part.name === 'content') + 1);
  }

  #trimEnd(text: string): string {
    return this.#definition.trim ? stripEnd(text) : text;
  }

  #trim(text: string): string {
    return this.#definition.trim ? strip(text) : text;
  }
}
