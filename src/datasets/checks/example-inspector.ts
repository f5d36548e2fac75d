/** What is suspicious in an example that can be read: told as notices, refused by nothing. */
import type { FieldViolation } from '../../errors/luthier-error.ts';
import type { Message } from '../../prompt/renderer.ts';
import type { Example } from '../example-parser.ts';
import type { Columns } from '../file-layout.ts';
import type { FormatName } from '../formats.ts';
import { DuplicateFinder } from './duplicates.ts';
import { Places } from './places.ts';
import { templateText } from './template-text.ts';

/** Line breaks and tabs are text; the other control characters come from damaged or binary sources. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/;

/** Notices told of one example, beside the last message's. */
const MAX_NOTICES = 10;

/** What is wrong with where a message stands; null: nothing. */
function orderFlaw(messages: readonly Message[], index: number): string | null {
  const { role } = messages[index] as Message;
  const before = messages[index - 1]?.role;
  if (role === 'system') return index === 0 ? null : 'expected system messages first, found one later';
  if (before === undefined || before === 'system') {
    return role === 'user' ? null : `expected the first turn from user, found ${role}`;
  }
  if (role === before && role !== 'tool') return `expected turns to alternate, found two from ${role}`;
  if (index === messages.length - 1 && role !== 'assistant') {
    return `expected the last turn from assistant, found ${role}: nothing after the last answer is learned`;
  }
  return null;
}

export class ExampleInspector {
  readonly #places: Places;
  readonly #duplicates = new DuplicateFinder();

  constructor(columns: Columns) {
    this.#places = new Places(columns);
  }

  inspect({ content, line }: Example, format: FormatName): FieldViolation[] {
    const notices: FieldViolation[] = [];
    const first = this.#duplicates.firstLine(content, line);
    if (first !== null) {
      const description = `expected every example once, found the same as line[${first}]; remove one of them`;
      notices.push({ field: `line[${line}]`, description, reason: 'DUPLICATE_EXAMPLE' });
    }
    if (content.kind === 'tokens') return notices;
    const { messages } = content;
    for (const [index, message] of messages.entries()) {
      if (notices.length >= MAX_NOTICES) break;
      // The question that a text has not.
      if (format === 'text' && message.role === 'user') continue;
      const place = (): string => this.#places.of(line, format, messages, index);
      const add = (description: string, reason: string): void => {
        notices.push({ field: place(), description, reason });
      };
      if (message.content.trim() === '' && !message.toolCalls)
        add('expected text, found an empty turn; fill or remove it', 'EMPTY_TURN');
      const order = format === 'text' ? null : orderFlaw(messages, index);
      if (order !== null) add(`${order}; put the turns in order`, 'ROLE_ORDER');
      const sign = templateText(message.content);
      if (sign !== null) {
        const description = `expected text without a template's own marks, found ${JSON.stringify(sign)}; store plain messages: the template is added`;
        add(description, 'TEMPLATE_TEXT');
      }
      if (CONTROL.test(message.content)) {
        add('expected text, found a control character; clean the text', 'CONTROL_CHARACTER');
      }
    }
    return notices;
  }
}
