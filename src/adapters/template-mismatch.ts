import type { TemplateIdentity } from '../prompt/renderer.ts';
import type { StoredAdapter } from './adapter-store.ts';

/** A template for people: its id, and enough of its hash to tell two of one id apart. */
export const shownTemplate = ({ id, hash }: Pick<TemplateIdentity, 'id' | 'hash'>): string =>
  `${id} (${hash.slice(0, 12)})`;

/** What an adapter was trained with, where that is known and another template than this one; else null. Templates are equal by their hash. */
export function otherTemplate({ name, origin }: StoredAdapter, template: TemplateIdentity): string | null {
  if (origin.templateHash === '' || origin.templateHash === template.hash) return null;
  return `${name} was trained with template ${shownTemplate({ id: origin.templateId, hash: origin.templateHash })}`;
}
