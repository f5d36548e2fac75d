import type { Message } from '../../prompt/renderer.ts';
import { ColumnMapper } from '../columns.ts';
import type { Columns } from '../file-layout.ts';
import type { FormatName } from '../formats.ts';

/** Where the file has the text of message `index`, in the format's words. */
function placeOf(format: FormatName, messages: readonly Message[], index: number): string {
  switch (format) {
    case 'messages':
      return `messages[${index}].content`;
    case 'conversations':
      return `conversations[${index}].value`;
    case 'instruction':
      return index === 0 ? 'instruction' : 'output';
    case 'prompt_completion':
      return index === 0 ? 'prompt' : 'completion';
    case 'rounds': {
      const first = messages[0]?.role === 'system' ? 1 : 0;
      if (index < first) return 'system';
      const newest = messages.length - 2;
      if (index >= newest) return index === newest ? 'query' : 'response';
      return `history[${Math.floor((index - first) / 2)}][${(index - first) % 2}]`;
    }
    default:
      return 'text';
  }
}

/** Tells places in a file's own words. */
export class Places {
  readonly #columns: ColumnMapper;

  constructor(columns: Columns) {
    this.#columns = new ColumnMapper(columns);
  }

  /** Such as `line[7].messages[1].content`. */
  of(line: number, format: FormatName, messages: readonly Message[], index: number): string {
    return `line[${line}].${this.#columns.nameInFile(placeOf(format, messages, index))}`;
  }
}
