import { ROLES } from '../../prompt/messages.ts';
import type { Message, Role } from '../../prompt/renderer.ts';
import { checkKeys, type Fields, isFields, listField, messageOf, placeOf, textAt, weightOf } from './fields.ts';
import type { Issues } from './issues.ts';

const FIELDS: ReadonlySet<string> = new Set(['messages']);
const MESSAGE_FIELDS: ReadonlySet<string> = new Set(['role', 'content', 'weight']);

function readMessage(value: unknown, place: string, issues: Issues): Message {
  if (!isFields(value)) {
    issues.wrong(place, 'a message: {"role", "content"}', value);
    return messageOf('user', '');
  }
  checkKeys(value, place, MESSAGE_FIELDS, issues);
  const known = ROLES.find((role) => role === value.role) ?? null;
  if (known === null) issues.wrong(placeOf(place, 'role'), `one of ${ROLES.join(', ')}`, value.role);
  const content = textAt(value.content, placeOf(place, 'content'), issues);
  return messageOf((known ?? 'user') satisfies Role, content, weightOf(value, known, place, issues));
}

/** OpenAI's layout: `{"messages": [{"role", "content", "weight"?}, …]}`. */
export function readMessages(example: Fields, issues: Issues): Message[] {
  checkKeys(example, '', FIELDS, issues);
  const messages: Message[] = [];
  for (const [index, value] of (
    listField(example, 'messages', 'a list of messages', 'EMPTY_MESSAGES', issues) ?? []
  ).entries()) {
    messages.push(readMessage(value, `messages[${index}]`, issues));
    if (issues.full) break;
  }
  return messages;
}
