/** A turn template as a file: YAML, or JSON, which is YAML. The presets are such files; users write their own. */
import { parse } from 'yaml';
import { z } from 'zod';
import { MAX_TEMPLATE_FILE, TURN_DEFAULTS, type TurnTemplateDefinition } from './definition.ts';
import { PromptError } from './errors.ts';
import { countOf, parsePattern } from './text-pattern.ts';

/** What a template may be called. */
export const TEMPLATE_ID = /^[a-z0-9][a-z0-9._-]{0,62}$/;

export interface TemplateFile {
  readonly id: string;
  readonly version: string;
  readonly description: string;
  readonly definition: TurnTemplateDefinition;
}

function found(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = JSON.stringify(value);
  return text.length > 80 ? `a text of ${text.length} characters` : text;
}

const expected = (what: string) => ({
  error: (issue: { readonly input?: unknown }): string => `expected ${what}, found ${found(issue.input)}`,
});

/** Placeholders by member. */
const PLACEHOLDERS = {
  system: ['content', 'bos', 'eos'],
  user: ['content', 'n', 'system', 'bos', 'eos'],
  assistant: ['content'],
  end: ['eos'],
  separator: ['bos', 'eos'],
} as const;

const text = z.string(expected('a text'));
const SHORT_TEXT = 4096;
const shortText = text.max(SHORT_TEXT, expected(`at most ${SHORT_TEXT} characters`));

/** A text whose placeholders are known; with `{content}` once where `content` says so. */
function patternText(member: keyof typeof PLACEHOLDERS, content: boolean) {
  return text.superRefine((value, context) => {
    const complain = (message: string): void => context.addIssue({ code: 'custom', message });
    try {
      const parts = parsePattern(value, PLACEHOLDERS[member]);
      const contents = countOf(parts, 'content');
      if (content && contents !== 1) complain(`expected {content} once, found it ${contents} times`);
      if (countOf(parts, 'system') > 1) complain('expected {system} at most once');
      const around = parts.flatMap((part) => ('text' in part ? [part.text] : []));
      if (member === 'assistant' && around.some((literal) => literal.trim() !== '')) {
        complain(
          `expected no more than whitespace around {content}, found ${found(value)}; write what introduces an answer at the end of user, what closes it in end`,
        );
      }
    } catch (error) {
      complain(error instanceof Error ? error.message : String(error));
    }
  });
}

const fileSchema = z
  .strictObject(
    {
      id: z.string(expected('an id')).regex(TEMPLATE_ID, expected('an id of a-z, 0-9, ".", "_" and "-"')),
      version: shortText.min(1, expected('a text such as "1"')).default('1'),
      description: shortText.default(''),
      bos: z.enum(['always', 'tokenizer', 'never'], expected('always, tokenizer or never')).default(TURN_DEFAULTS.bos),
      system: patternText('system', true).nullable().default(TURN_DEFAULTS.system),
      defaultSystem: text.nullable().default(TURN_DEFAULTS.defaultSystem),
      user: patternText('user', true),
      assistant: patternText('assistant', true).default('{content}'),
      end: patternText('end', false).min(1, expected('a control token, or null')).nullable().default(TURN_DEFAULTS.end),
      separator: patternText('separator', false).default(TURN_DEFAULTS.separator),
      firstRound: z
        .int(expected('a whole number'))
        .min(0, expected('at least 0'))
        .max(1_000_000, expected('at most 1000000'))
        .default(TURN_DEFAULTS.firstRound),
      bareFirstTurn: z.boolean(expected('true or false')).default(TURN_DEFAULTS.bareFirstTurn),
      trim: z.boolean(expected('true or false')).default(TURN_DEFAULTS.trim),
      tokens: z
        .array(shortText.min(1, expected('a token')), expected('a list of control tokens'))
        .max(64, expected('at most 64 tokens'))
        .default([]),
      tokenIds: z
        .record(z.string(), z.int(expected('an id')).min(0, expected('an id')), expected('ids by token'))
        .default({}),
      stop: z
        .array(shortText.min(1, expected('a text')), expected('a list of texts'))
        .max(16, expected('at most 16 texts'))
        .default([]),
    },
    {
      error: (issue) =>
        issue.code === 'unrecognized_keys'
          ? `${(issue as { keys?: string[] }).keys?.join(', ')}: not known; expected id, version, description, bos, system, defaultSystem, user, assistant, end, separator, firstRound, bareFirstTurn, trim, tokens, tokenIds, stop`
          : `expected names and values, found ${found(issue.input)}`,
    },
  )
  .superRefine((file, context) => {
    const complain = (path: string, message: string): void =>
      context.addIssue({ code: 'custom', path: [path], message });
    if (file.system === null && file.defaultSystem !== null) {
      complain('defaultSystem', 'expected only with system, which says how it is written');
    }
    if (file.system === null && file.user.includes('{system}')) {
      complain('user', '{system} is expected only with system, which says how it is written');
    }
    for (const token of Object.keys(file.tokenIds)) {
      if (!file.tokens.includes(token)) complain(`tokenIds.${token}`, 'expected only tokens that tokens names, too');
    }
    const literals = [file.system, file.user, file.end, file.separator].join('\n');
    file.tokens.forEach((token, index) => {
      if (!literals.includes(token)) complain(`tokens[${index}]`, `${found(token)} occurs in none of the texts`);
    });
  });

/** Problems told at once, and characters of each: a status travels in headers. */
const MAX_PROBLEMS = 10;
const MAX_PROBLEM = 300;

const cut = (text: string): string => (text.length > MAX_PROBLEM ? `${text.slice(0, MAX_PROBLEM)}…` : text);

const invalid = (what: string, cause?: unknown): PromptError =>
  new PromptError('INVALID_TEMPLATE', `the template file is not valid: ${what}`, null, { cause });

/**
 * Reads a template from the text of a file.
 *
 * @throws PromptError `INVALID_TEMPLATE` which names every member at fault
 */
export function parseTemplateFile(source: string): TemplateFile {
  if (source.length > MAX_TEMPLATE_FILE) {
    throw invalid(`expected at most ${MAX_TEMPLATE_FILE} characters, found ${source.length}`);
  }
  let value: unknown;
  try {
    value = parse(source);
  } catch (error) {
    // Without the picture of the place, which has lines of its own.
    const [why = ''] = (error instanceof Error ? error.message : String(error)).split('\n');
    throw invalid(`it is neither YAML nor JSON: ${cut(why)}`, error);
  }
  const parsed = fileSchema.safeParse(value);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path, message }) =>
      cut(path.length === 0 ? message : `${path.join('.')}: ${message}`),
    );
    const more = problems.length > MAX_PROBLEMS ? [`and ${problems.length - MAX_PROBLEMS} more`] : [];
    throw invalid([...problems.slice(0, MAX_PROBLEMS), ...more].join('; '), parsed.error);
  }
  const { id, version, description, ...members } = parsed.data;
  return { id, version, description, definition: { kind: 'turns', ...members } };
}
