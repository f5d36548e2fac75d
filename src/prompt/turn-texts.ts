/** The texts of a turn template, read once and fitted to a model's tokenizer. */
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { stripEnd } from './blanks.ts';
import type { TurnTemplateDefinition } from './definition.ts';
import { PromptError } from './errors.ts';
import { type PatternPart, parsePattern } from './text-pattern.ts';

export interface TurnTexts {
  readonly system: readonly PatternPart[] | null;
  readonly user: readonly PatternPart[];
  /** Whitespace in front of an answer's content, with the blanks that end `user`: they belong to the answer's first word. */
  readonly answerPrefix: string;
  readonly answerSuffix: string;
  /** Null: EOS closes answers, as a label. */
  readonly end: { readonly text: string; readonly id: number } | null;
  readonly separator: string;
}

const refuse = (template: string, why: string): never => {
  throw new PromptError('TEMPLATE_FAILED', `template ${template} does not suit this model: ${why}`);
};

/** Replaces `{bos}` and `{eos}` by the tokenizer's tokens. */
function withTokens(template: string, tokenizer: Tokenizer, pattern: string, names: readonly string[]): PatternPart[] {
  return parsePattern(pattern, [...names, 'bos', 'eos']).map((part): PatternPart => {
    if (!('name' in part) || (part.name !== 'bos' && part.name !== 'eos')) return part;
    const { bos_token, eos_token } = tokenizer.specialTokens;
    const token = part.name === 'bos' ? bos_token : eos_token;
    if (token === null) return refuse(template, `it writes {${part.name}}, but the tokenizer names no such token`);
    return { text: token };
  });
}

const literals = (parts: readonly PatternPart[]): string[] =>
  parts.flatMap((part) => ('text' in part ? [part.text] : []));

/**
 * A token that the template counts on and the tokenizer lacks would become plain text without a word, and plain text that the tokenizer
 * takes for a control token is no text.
 */
function checkTokens(
  template: string,
  tokenizer: Tokenizer,
  { tokens: declared, tokenIds }: TurnTemplateDefinition,
  texts: readonly string[],
): void {
  const missing = declared.filter((token) => {
    const matches = tokenizer.findControlTokens(token);
    return matches.length !== 1 || matches[0]?.start !== 0 || matches[0].end !== token.length;
  });
  if (missing.length > 0) {
    refuse(
      template,
      `its tokens ${missing.join(', ')} are no control tokens of the tokenizer; choose the template of this model`,
    );
  }
  for (const [token, id] of Object.entries(tokenIds)) {
    const found = tokenizer.findControlTokens(token)[0]?.id;
    if (found !== id) refuse(template, `its token ${token} has id ${found} in the tokenizer; expected ${id}`);
  }
  const { bos_token, eos_token } = tokenizer.specialTokens;
  const allowed = new Set([...declared, bos_token, eos_token]);
  const undeclared = texts
    .flatMap((text) => tokenizer.findControlTokens(text).map(({ start, end }) => text.slice(start, end)))
    .find((token) => !allowed.has(token));
  if (undeclared !== undefined) {
    refuse(
      template,
      `${undeclared} in its texts is a control token of the tokenizer; name it in tokens if that is meant`,
    );
  }
}

function endOf(template: string, tokenizer: Tokenizer, parts: readonly PatternPart[]): TurnTexts['end'] {
  const text = literals(parts).join('');
  const matches = tokenizer.findControlTokens(text);
  const [match] = matches;
  if (match === undefined || match.start !== 0 || match.end !== text.length) {
    return refuse(template, `end is ${JSON.stringify(text)}; expected exactly one control token of the tokenizer`);
  }
  return { text, id: match.id };
}

/**
 * Some tokenizers put a space of their own in front of text behind a control token. Published texts have a blank there for the others; with such a
 * tokenizer it is left out, or there would be two.
 */
function withoutDoubleBlanks(tokenizer: Tokenizer, text: string): string {
  const blanks = tokenizer.findControlTokens(text).flatMap(({ end }) => (text[end] === ' ' ? [end] : []));
  return blanks.reduceRight((kept, at) => kept.slice(0, at) + kept.slice(at + 1), text);
}

const spacesAfterControl = (tokenizer: Tokenizer): boolean =>
  tokenizer.encode('a', { after: 'control' }).join() !== tokenizer.encode('a', { after: 'text' }).join();

/** @throws PromptError where the tokenizer lacks a token of the template */
export function turnTexts(template: string, tokenizer: Tokenizer, definition: TurnTemplateDefinition): TurnTexts {
  const parts = (pattern: string, ...names: string[]): PatternPart[] => withTokens(template, tokenizer, pattern, names);
  if (definition.end === null && tokenizer.eosTokenId === null) {
    refuse(template, 'it closes answers with EOS, but the tokenizer names no EOS token');
  }
  const system = definition.system === null ? null : parts(definition.system, 'content');
  const user = parts(definition.user, 'content', 'n', 'system');
  const end = definition.end === null ? null : parts(definition.end);
  const separator = parts(definition.separator);
  checkTokens(template, tokenizer, definition, [system ?? [], user, end ?? [], separator].flatMap(literals));
  const ownSpaces = spacesAfterControl(tokenizer);
  const once = (part: PatternPart): PatternPart =>
    ownSpaces && 'text' in part ? { text: withoutDoubleBlanks(tokenizer, part.text) } : part;
  const [before = '', after = ''] = definition.assistant.split('{content}');
  const last = user.at(-1);
  let trailing = '';
  if (last !== undefined && 'text' in last) {
    const text = stripEnd(last.text, new Set(' '));
    trailing = last.text.slice(text.length);
    user[user.length - 1] = { text };
  }
  const opening = user.at(-1);
  const behindToken =
    opening !== undefined &&
    'text' in opening &&
    tokenizer.findControlTokens(opening.text).at(-1)?.end === opening.text.length;
  const prefix = trailing + before;
  return {
    system: system === null ? null : system.map(once),
    user: user.map(once),
    answerPrefix: ownSpaces && behindToken && prefix.startsWith(' ') ? prefix.slice(1) : prefix,
    answerSuffix: after,
    end: end === null ? null : endOf(template, tokenizer, end),
    separator: literals(separator.map(once)).join(''),
  };
}
