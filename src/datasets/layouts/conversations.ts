import type { Message, Role } from '../../prompt/renderer.ts';
import { checkKeys, type Fields, isFields, listField, messageOf, placeOf, textAt, weightOf } from './fields.ts';
import type { Issues } from './issues.ts';

/** `id` names a conversation in the published files; it says nothing to a model. */
const FIELDS: ReadonlySet<string> = new Set(['conversations', 'id']);
const TURN_FIELDS: ReadonlySet<string> = new Set(['from', 'value', 'weight']);

/** Who speaks, as files of this layout write it. */
const SPEAKERS: Readonly<Record<string, Role>> = {
  human: 'user',
  user: 'user',
  gpt: 'assistant',
  assistant: 'assistant',
  chatgpt: 'assistant',
  bing: 'assistant',
  bard: 'assistant',
  system: 'system',
  tool: 'tool',
  observation: 'tool',
};

function readTurn(value: unknown, place: string, issues: Issues): Message {
  if (!isFields(value)) {
    issues.wrong(place, 'a turn: {"from", "value"}', value);
    return messageOf('user', '');
  }
  if (Object.hasOwn(value, 'role') && !Object.hasOwn(value, 'from')) {
    const description =
      'expected {"from", "value"}, found {"role", "content"}; read it as messages from the column conversations (columns: messages=conversations)';
    issues.add(place, description, 'WRONG_SHAPE');
    return messageOf('user', '');
  }
  checkKeys(value, place, TURN_FIELDS, issues);
  const { from } = value;
  const role = typeof from === 'string' && Object.hasOwn(SPEAKERS, from) ? (SPEAKERS[from] ?? null) : null;
  if (role === null) issues.wrong(placeOf(place, 'from'), `one of ${Object.keys(SPEAKERS).join(', ')}`, from);
  const content = textAt(value.value, placeOf(place, 'value'), issues);
  return messageOf(role ?? 'user', content, weightOf(value, role, place, issues));
}

/** ShareGPT's layout: `{"conversations": [{"from", "value"}, …], "id"?}`. */
export function readConversations(example: Fields, issues: Issues): Message[] {
  checkKeys(example, '', FIELDS, issues);
  const turns = listField(example, 'conversations', 'a list of turns', 'EMPTY_MESSAGES', issues) ?? [];
  const messages: Message[] = [];
  for (const [index, value] of turns.entries()) {
    messages.push(readTurn(value, `conversations[${index}]`, issues));
    if (issues.full) break;
  }
  return messages;
}
