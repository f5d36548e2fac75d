/**
 * The generated part of docs/data.md: every preset's file, and what it makes of a conversation, with the mask.
 *
 *     node test/docs/preset-pages.ts
 *
 * writes it. `data-page.test.ts` fails where a preset was changed without it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { createRenderer } from '../../src/prompt/create-renderer.ts';
import { preset, presetText } from '../../src/prompt/presets.ts';
import { IGNORED_LABEL, type Message, type Segment, type TrainOn } from '../../src/prompt/renderer.ts';
import { PRESET_NAMES } from '../../src/prompt/template-names.ts';
import { presetTokenizer } from '../fixtures/templates.ts';

const PAGE = new URL('../../docs/data.md', import.meta.url);
const BEGIN = '<!-- Written by test/docs/preset-pages.ts: change presets, not this. -->';
const END = '<!-- End of what is written by test/docs/preset-pages.ts. -->';

const ROUNDS: readonly Message[] = [
  { role: 'user', content: 'What is LoRA?' },
  { role: 'assistant', content: 'A low-rank update.' },
  { role: 'user', content: 'And QLoRA?' },
  { role: 'assistant', content: 'LoRA on 4-bit weights.' },
];
const SYSTEM: Message = { role: 'system', content: 'Be brief.' };

const html = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('\n', '⏎\n');

/** Learned text is bold; an end that is learned as a label only stands in italics where the label is. */
function shown(segments: readonly Segment[], tokenText: (id: number) => string): string {
  return segments
    .map(({ text, weight, labels }) => {
      const label = labels?.[0] ?? IGNORED_LABEL;
      const only = label === IGNORED_LABEL || weight === 1 ? '' : `<i>(${html(tokenText(label))})</i>`;
      return only + (weight === 1 ? `<b>${html(text)}</b>` : html(text));
    })
    .join('');
}

function example(name: string, messages: readonly Message[], trainOn: TrainOn): string {
  const tokenizer = presetTokenizer(name, { bos: '<s>', eos: '</s>' });
  const { segments } = createRenderer(tokenizer, name).renderTraining(messages, { trainOn });
  return `<pre>\n${shown(segments, (id) => tokenizer.idToPiece(id) ?? '')}\n</pre>`;
}

function presetSection(name: string): string {
  const definition = preset(name)?.definition;
  const messages = definition?.system === null ? ROUNDS : [SYSTEM, ...ROUNDS];
  const hash = createRenderer(presetTokenizer(name), name).template.hash;
  // The first answer of a longer conversation cannot be learned where its question was written without a header.
  const trainOn = definition?.bareFirstTurn ? 'last' : 'assistant';
  const lines = [`### ${name}`, '', '```yaml', presetText(name).trimEnd(), '```', ''];
  if (definition?.defaultSystem) lines.push(example(name, ROUNDS.slice(0, 2), trainOn), '');
  if (definition?.bareFirstTurn) lines.push(example(name, ROUNDS.slice(0, 2), trainOn), '');
  lines.push(example(name, messages, trainOn), '', `SHA-256 \`${hash}\``, '');
  return lines.join('\n');
}

const weighted = ROUNDS.map((message, index): Message => (index === 1 ? { ...message, weight: 0 } : message));

/** The generated part. */
function generatedPart(): string {
  const masks = (['assistant', 'last', 'all'] as const).flatMap((trainOn) => [
    `\`train_on\` ${trainOn}:`,
    '',
    example('chatml', ROUNDS, trainOn),
    '',
  ]);
  return [
    BEGIN,
    '',
    ...masks,
    '`train_on` assistant, the first answer with `"weight": 0`:',
    '',
    example('chatml', weighted, 'assistant'),
    '',
    '## Presets',
    '',
    'Each with its file and what it makes of the same conversation; `<s>` and `</s>` stand for the BOS and EOS of the model.',
    '',
    ...PRESET_NAMES.map(presetSection),
    END,
  ].join('\n');
}

/** The page as it is, and as it should be. */
export function dataPage(): { readonly now: string; readonly fresh: string } {
  const now = readFileSync(PAGE, 'utf8');
  const [begin, end] = [now.indexOf(BEGIN), now.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`docs/data.md has lost the lines ${BEGIN} and ${END}`);
  return { now, fresh: now.slice(0, begin) + generatedPart() + now.slice(end + END.length) };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) writeFileSync(PAGE, dataPage().fresh);
