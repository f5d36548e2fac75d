/** Renders templates made of plain text: rounds, instruction and answer, plain concatenation. */
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { assembleExample, assemblePrompt, type Block, type Layout } from './assemble.ts';
import type { TurnTemplateDefinition } from './definition.ts';
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

/** Splits `Assistant: ` into `Assistant:` and the blank, which belongs to the answer's first word. */
function splitTrailingBlank(text: string): { text: string; blank: string } {
  const trimmed = text.replace(/ +$/u, '');
  return { text: trimmed, blank: text.slice(trimmed.length) };
}

export class TurnRenderer implements Renderer {
  readonly template: TemplateIdentity;
  readonly stopTokenIds: readonly number[];
  readonly stopStrings: readonly string[];
  readonly answerPrefix: string;

  readonly #tokenizer: Tokenizer;
  readonly #definition: TurnTemplateDefinition;
  readonly #guard: LiteralGuard;
  readonly #answerStart: string;
  readonly #prefixIds: readonly number[];
  readonly #eos: string;

  /** @throws PromptError where the tokenizer has no EOS token, without which answers have no end */
  constructor(tokenizer: Tokenizer, template: TemplateIdentity, definition: TurnTemplateDefinition) {
    if (tokenizer.eosTokenId === null) {
      throw new PromptError(
        'TEMPLATE_FAILED',
        `template ${template.id} ends answers with EOS, but the tokenizer names no EOS token`,
      );
    }
    this.template = template;
    this.#tokenizer = tokenizer;
    this.#definition = definition;
    this.#guard = new LiteralGuard(tokenizer);
    this.#eos = tokenizer.idToPiece(tokenizer.eosTokenId) ?? '';
    const answerStart = splitTrailingBlank(definition.answerStart);
    this.#answerStart = answerStart.text;
    this.answerPrefix = answerStart.blank;
    this.stopTokenIds = [...new Set([tokenizer.eosTokenId, ...tokenizer.endOfGenerationTokenIds])];
    this.stopStrings = definition.stopStrings;
    const bos = tokenizer.bosTokenId === null ? [] : [tokenizer.bosTokenId];
    this.#prefixIds = { always: bos, tokenizer: tokenizer.prefixTokenIds, never: [] }[definition.bos];
  }

  renderTraining(messages: readonly Message[], options: TrainingOptions): RenderedExample {
    this.#checkTurns(messages);
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
    this.#checkTurns(messages);
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
  #checkTurns(messages: readonly Message[]): void {
    checkMessages(messages);
    const start = messages[0]?.role === 'system' ? 1 : 0;
    if (start === 1 && this.#definition.systemEnd === null) {
      throw new PromptError(
        'INVALID_MESSAGES',
        `messages[0]: template ${this.template.id} has no place for a system message`,
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
    const definition = this.#definition;
    const literalMark =
      this.#guard.marks(
        1,
        messages.map((message) => message.content),
      )[0] ?? '';
    const literal = (text: string): string =>
      text === '' ? '' : literalMark + this.#guard.guardStrictly(text, literalMark);
    const blocks: Block[] = [];
    let prompt = '';
    let round = definition.indexBase;
    const bare = definition.bareFirstTurn && messages.filter((message) => message.role === 'user').length === 1;
    messages.forEach((message, messageIndex) => {
      if (message.role === 'system') {
        prompt += literal(message.content) + (definition.systemEnd ?? '');
      } else if (message.role === 'user') {
        const answered = messageIndex + 1 < messages.length;
        const turnStart = bare ? '' : definition.turnStart.replaceAll('{n}', String(round));
        prompt += turnStart + literal(message.content) + ((answered || generation) && !bare ? this.#answerStart : '');
        round += 1;
      } else {
        blocks.push({ kind: 'prompt', messageIndex: null, text: prompt });
        blocks.push({ kind: 'answer', messageIndex, text: (bare ? '' : this.answerPrefix) + literal(message.content) });
        if (definition.eosInHistory) blocks.push({ kind: 'end', messageIndex, text: this.#eos });
        prompt = messageIndex + 1 < messages.length ? definition.turnEnd : '';
      }
    });
    if (prompt.length > 0) blocks.push({ kind: 'prompt', messageIndex: null, text: prompt });
    return { blocks, literalMark, prefixIds: this.#prefixIds };
  }
}
