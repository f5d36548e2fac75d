/** Templates as data: what is hashed, stored with an adapter, and sent by clients who bring their own. */
import { createHash } from 'node:crypto';
import type { TemplateIdentity } from './renderer.ts';

/** The model's own Jinja chat template, or one that the caller brings. */
export interface ChatTemplateDefinition {
  readonly kind: 'chat-template';
  readonly source: string;
}

/** Whether BOS (or whatever the tokenizer puts in front of a text) starts the conversation. */
type BosRule = 'always' | 'tokenizer' | 'never';

/**
 * A template made of plain text, turn by turn. `{n}` in `turnStart` is the round's number.
 *
 * A round reads turnStart + question + answerStart + answer + turnEnd. History keeps no end token unless `eosInHistory`.
 */
export interface TurnTemplateDefinition {
  readonly kind: 'turns';
  readonly turnStart: string;
  readonly answerStart: string;
  readonly turnEnd: string;
  /** Number of the first round. */
  readonly indexBase: number;
  /** The first question stands alone while it has no answer (ChatGLM-6B). */
  readonly bareFirstTurn: boolean;
  readonly eosInHistory: boolean;
  /** Between a system message and the first round; null: system messages are refused. */
  readonly systemEnd: string | null;
  readonly bos: BosRule;
  readonly stopStrings: readonly string[];
}

export type TemplateDefinition = ChatTemplateDefinition | TurnTemplateDefinition;

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

/** The identity of a template: the hash is SHA-256 over the definition as canonical JSON. */
export function templateIdentity(id: string, version: string, definition: TemplateDefinition): TemplateIdentity {
  return { id, version, hash: createHash('sha256').update(canonicalJson(definition)).digest('hex') };
}
