import { SETTINGS, type Setting } from './settings.ts';

const WIDTH = 100;
const INDENT = 34;

/** Lines of at most `WIDTH` characters, the first one beside `head`. */
function entry(head: string, text: string): string {
  const lines: string[] = [];
  let line = `  ${head}`.padEnd(INDENT);
  if (line.length > INDENT) {
    lines.push(line);
    line = ' '.repeat(INDENT);
  }
  for (const word of text.split(' ')) {
    if (line.length + word.length + 1 > WIDTH && line.trim() !== '') {
      lines.push(line);
      line = ' '.repeat(INDENT);
    }
    line += line.endsWith(' ') ? word : ` ${word}`;
  }
  return [...lines, line].join('\n');
}

function describe(setting: Setting): string {
  const repeated = setting.kind === 'list' || setting.kind === 'map';
  const notes = [
    setting.description,
    repeated ? 'May be repeated.' : '',
    setting.defaultText === null ? '' : `Default: ${setting.defaultText}.`,
  ];
  const argument = setting.argument === '' ? '' : ` ${setting.argument}`;
  return entry(`${setting.flag}${argument}`, notes.filter((note) => note !== '').join(' '));
}

/** The text of `luthier serve --help`. */
export function helpText(): string {
  return [
    'Usage: luthier serve [options]',
    '',
    'Serves the gRPC API. Settings come from flags, then the environment (LUTHIER_PORT for --port,',
    'lists separated by commas), then the file, then the defaults.',
    '',
    entry(
      '--config FILE',
      'YAML or JSON with the same names as the flags; lists under models, model-roots, export-roots.',
    ),
    ...SETTINGS.map(describe),
    entry('--help', 'This text.'),
    entry('--version', 'The version.'),
    '',
  ].join('\n');
}
