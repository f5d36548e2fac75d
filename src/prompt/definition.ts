/** Templates as data: what is hashed, stored with an adapter, and sent by clients who bring their own. */
import { createHash } from 'node:crypto';
import type { TemplateIdentity } from './renderer.ts';

/** The text of a template file is at most this long, in UTF-16 units. */
export const MAX_TEMPLATE_FILE = 16_384;

/** A Jinja chat template: the model's own. */
export interface ChatTemplateDefinition {
  readonly kind: 'chat-template';
  readonly source: string;
}

/**
 * A template that writes a conversation turn by turn: rounds, instruction and answer, role tokens.
 *
 * A round reads user + assistant + end + separator. Texts may hold `{content}` (the message), and in `user` `{n}` (the round's number) and
 * `{system}` (the system message, in the first round); `{bos}` and `{eos}` are the tokenizer's tokens of these names; `{{` and `}}` are braces.
 */
export interface TurnTemplateDefinition {
  readonly kind: 'turns';
  /** Whether BOS starts the conversation: always (where the tokenizer has one), what the tokenizer puts in front of a text, or never. */
  readonly bos: 'always' | 'tokenizer' | 'never';
  /** How a system message is written, in front of the first round or, where `user` has `{system}`, inside it; null: refused. */
  readonly system: string | null;
  /** The system message of a conversation that brings none. */
  readonly defaultSystem: string | null;
  /** A question with everything that stands before the answer. */
  readonly user: string;
  /** An answer: `{content}` with no more than whitespace around it, which is learned with it. */
  readonly assistant: string;
  /** The control token that closes answers and stays in the history; null: EOS is learned as the label of the next position. */
  readonly end: string | null;
  /** Between a closed answer and the next round. Never learned. */
  readonly separator: string;
  /** Number of the first round. */
  readonly firstRound: number;
  /** The first question stands alone while it has no answer (ChatGLM-6B). */
  readonly bareFirstTurn: boolean;
  /** Whitespace around messages is removed. */
  readonly trim: boolean;
  /** Every control token in the texts above. The model's tokenizer must have them. */
  readonly tokens: readonly string[];
  /** Ids that some of them must have: tokenizers of one family may have one name at different ids. */
  readonly tokenIds: Readonly<Record<string, number>>;
  /** Texts with which a next turn would start: they end a generated answer. */
  readonly stop: readonly string[];
}

export type TemplateDefinition = ChatTemplateDefinition | TurnTemplateDefinition;

/** What a turn template's members are where a file leaves them out. A member with its default is not hashed, so a new member changes no hash. */
export const TURN_DEFAULTS: Omit<TurnTemplateDefinition, 'kind' | 'user' | 'assistant'> = {
  bos: 'tokenizer',
  system: null,
  defaultSystem: null,
  end: null,
  separator: '',
  firstRound: 1,
  bareFirstTurn: false,
  trim: false,
  tokens: [],
  tokenIds: {},
  stop: [],
};

/** JSON with sorted keys and no spaces: one text per value. */
function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value).filter(([, member]) => member !== undefined);
    entries.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    return `{${entries.map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`).join(',')}}`;
  }
  return JSON.stringify(value);
}

/** The definition without members that have their default. */
function withoutDefaults(definition: TemplateDefinition): object {
  if (definition.kind === 'chat-template') return definition;
  const defaults = new Map<string, unknown>(Object.entries(TURN_DEFAULTS));
  const entries = Object.entries(definition).filter(
    ([key, member]) => !defaults.has(key) || canonicalJson(member) !== canonicalJson(defaults.get(key)),
  );
  return Object.fromEntries(entries);
}

/** The identity of a template: the hash is SHA-256 over the definition, without defaults, as canonical JSON. */
export function templateIdentity(id: string, version: string, definition: TemplateDefinition): TemplateIdentity {
  const text = canonicalJson(withoutDefaults(definition));
  return { id, version, hash: createHash('sha256').update(text).digest('hex') };
}

/** A turn template as the text of a file that reads back to the same identity: what an adapter keeps. */
export function templateFileText(id: string, version: string, definition: TurnTemplateDefinition): string {
  const { kind: _, ...members } = withoutDefaults(definition) as { kind?: string };
  return canonicalJson({ id, version, ...members });
}
