import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Example } from './example-parser.ts';
import { type Columns, NO_COLUMNS } from './file-layout.ts';
import type { FormatName } from './formats.ts';
import { MAX_EXAMPLE_BYTES } from './limits.ts';
import { type FilePiece, readExamples } from './read-examples.ts';

async function parse(
  content: Uint8Array | string,
  format: FormatName | null = null,
  cuts: readonly number[] = [],
  columns: Columns = NO_COLUMNS,
) {
  const whole = Buffer.from(content);
  const bounds = [0, ...[...cuts].map((cut) => cut % (whole.length + 1)).sort((a, b) => a - b), whole.length];
  async function* bytes() {
    for (const [index, end] of bounds.slice(1).entries()) yield whole.subarray(bounds[index], end);
  }
  const options = { format, container: null, columns, inspect: false };
  const parts: FilePiece[] = [];
  for await (const piece of readExamples({ path: null, bytes: bytes() }, options)) parts.push(piece);
  return {
    format: parts.at(-1)?.layout.format,
    examples: parts.flatMap((part) => part.examples),
    problems: parts.flatMap((part) => part.problems),
  };
}

const MESSAGES = '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}';
const PAIR = '{"prompt":"a","completion":"b"}';
const TOKENS = '{"input_ids":[1,2],"labels":[-100,2]}';

const said = (role: string, content: string) => ({ role, content });

describe('formats', () => {
  it.each([
    ['messages', MESSAGES, [said('user', 'a'), said('assistant', 'b')]],
    ['prompt_completion', PAIR, [said('user', 'a'), said('assistant', 'b')]],
    [
      'conversations',
      '{"id":"7","conversations":[{"from":"system","value":"s"},{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}',
      [said('system', 's'), said('user', 'a'), said('assistant', 'b')],
    ],
    ['instruction', '{"instruction":"a","input":"","output":"b"}', [said('user', 'a'), said('assistant', 'b')]],
    ['instruction', '{"instruction":"a","input":"x","output":"b"}', [said('user', 'a\nx'), said('assistant', 'b')]],
    [
      'rounds',
      '{"query":"c","response":"d","history":[["a","b"]],"system":"s"}',
      [said('system', 's'), said('user', 'a'), said('assistant', 'b'), said('user', 'c'), said('assistant', 'd')],
    ],
    ['text', '{"text":"a"}', [said('user', ''), said('assistant', 'a')]],
  ])('%s is detected from the first example', async (format, line, messages) => {
    expect(await parse(`${line}\n${line}\n`)).toMatchObject({
      format,
      problems: [],
      examples: [
        { line: 1, content: { messages } },
        { line: 2, content: { messages } },
      ],
    });
  });

  it('a given format counts more than the first line', async () => {
    expect((await parse(PAIR, 'messages')).problems).toMatchObject([{ field: 'line[1]', reason: 'MIXED_FORMATS' }]);
  });

  it('columns are mapped and left out; places are told in the words of the file', async () => {
    const columns = { mapped: { prompt: 'question', completion: 'best answer' }, ignored: ['id'] };
    const line = '{"id":3,"question":"a","best answer":"b"}';
    const { format, examples, problems } = await parse(`${line}\n{"question":"a","best answer":7}`, null, [], columns);
    expect(format).toBe('prompt_completion');
    expect(examples).toMatchObject([{ content: { messages: [said('user', 'a'), said('assistant', 'b')] } }]);
    expect(problems).toMatchObject([{ field: 'line[2].best answer', reason: 'WRONG_SHAPE' }]);
    expect((await parse('{"q":"a"}', null, [], columns)).problems).toMatchObject([
      { field: 'line[1].question', reason: 'UNKNOWN_COLUMN', description: expect.stringContaining('"q"') },
      { field: 'line[1].best answer', reason: 'UNKNOWN_COLUMN' },
    ]);
    expect((await parse('{"question":"a","prompt":"b"}', null, [], columns)).problems).toMatchObject([
      { field: 'line[1].question', reason: 'UNKNOWN_COLUMN' },
    ]);
  });

  it('keeps weights, and labels as they are', async () => {
    const weighted = '{"messages":[{"role":"assistant","content":"b","weight":0}]}';
    expect((await parse(weighted)).examples[0]?.content).toEqual({
      kind: 'messages',
      messages: [{ role: 'assistant', content: 'b', weight: 0 }],
    });
    const labels = Int32Array.of(-100, 2);
    expect((await parse(TOKENS)).examples[0]?.content).toEqual({
      kind: 'tokens',
      inputIds: Uint32Array.of(1, 2),
      labels,
    });
  });
});

describe('problems', () => {
  it.each([
    ['no JSON', '{"messages": [', 'line[2]', 'NOT_JSON'],
    ['no object', '[1]', 'line[2]', 'WRONG_SHAPE'],
    ['another layout', PAIR, 'line[2]', 'MIXED_FORMATS'],
    ['two layouts at once', `${MESSAGES.slice(0, -1)},"prompt":"a"}`, 'line[2].prompt', 'UNKNOWN_FIELD'],
    ['no messages', '{"messages":[]}', 'line[2].messages', 'EMPTY_MESSAGES'],
    [
      'content that is no text',
      '{"messages":[{"role":"user","content":7}]}',
      'line[2].messages[0].content',
      'WRONG_SHAPE',
    ],
    ['no content', '{"messages":[{"role":"user"}]}', 'line[2].messages[0].content', 'WRONG_SHAPE'],
    ['an unknown role', '{"messages":[{"role":"bot","content":""}]}', 'line[2].messages[0].role', 'WRONG_SHAPE'],
    [
      'a weight on a question',
      '{"messages":[{"role":"user","content":"","weight":1}]}',
      'line[2].messages[0].weight',
      'WEIGHT_NOT_ALLOWED',
    ],
    [
      'a weight of two',
      '{"messages":[{"role":"assistant","content":"","weight":2}]}',
      'line[2].messages[0].weight',
      'WRONG_SHAPE',
    ],
    [
      'a field that would be lost',
      '{"messages":[{"role":"user","content":"","name":"x"}]}',
      'line[2].messages[0].name',
      'UNKNOWN_FIELD',
    ],
    [
      'half a character',
      '{"messages":[{"role":"user","content":"\\ud83d"}]}',
      'line[2].messages[0].content',
      'NOT_UNICODE',
    ],
  ])('%s', async (_, line, field, reason) => {
    const { problems, examples } = await parse(`${MESSAGES}\n${line}\n${MESSAGES}\n`);
    expect(problems).toMatchObject([{ field, reason }]);
    expect(examples.map((example) => [example.index, example.line])).toEqual([
      [0, 1],
      [1, 3],
    ]);
  });

  it.each([
    ['lengths that differ', '{"input_ids":[1,2],"labels":[1]}', 'line[1].labels', 'LENGTHS_DIFFER'],
    ['a negative id', '{"input_ids":[-1],"labels":[1]}', 'line[1].input_ids[0]', 'WRONG_SHAPE'],
    ['half an id', '{"input_ids":[1.5],"labels":[1]}', 'line[1].input_ids[0]', 'WRONG_SHAPE'],
    ['a label that is neither', '{"input_ids":[1],"labels":[-1]}', 'line[1].labels[0]', 'WRONG_SHAPE'],
    ['no ids', '{"input_ids":[],"labels":[]}', 'line[1].input_ids', 'EMPTY_TOKENS'],
    ['no labels', '{"input_ids":[1]}', 'line[1].labels', 'WRONG_SHAPE'],
  ])('tokens: %s', async (_, line, field, reason) => {
    expect((await parse(line)).problems).toMatchObject([{ field, reason }]);
  });

  it('says what was expected and what was found', async () => {
    const [problem] = (await parse('{"messages":[{"role":"user","content":7}]}')).problems;
    expect(problem?.description).toBe('expected a text, found 7');
  });

  it('bytes that are no UTF-8, and lines beyond the limit', async () => {
    const bytes = Buffer.concat([
      Buffer.from(`${PAIR}\n{"prompt":"`),
      Buffer.of(0xff),
      Buffer.from('","completion":""}\n'),
    ]);
    expect((await parse(bytes)).problems).toMatchObject([{ field: 'line[2]', reason: 'NOT_UTF8' }]);
    const long = `{"prompt":"${'x'.repeat(MAX_EXAMPLE_BYTES)}","completion":""}`;
    expect(await parse(`${PAIR}\n${long}\n${PAIR}`)).toMatchObject({
      problems: [{ field: 'line[2]', reason: 'LINE_TOO_LONG' }],
      examples: [{ line: 1 }, { line: 3 }],
    });
  });
});

describe('files as editors write them', () => {
  it('byte order mark, CRLF, blank lines, no newline at the end', async () => {
    const { examples, problems } = await parse(`\ufeff${PAIR}\r\n\r\n  \n${PAIR}`);
    expect(problems).toEqual([]);
    expect(examples.map(({ line }) => line)).toEqual([1, 4]);
  });

  it('a byte order mark further on is no blank', async () => {
    expect((await parse(`${PAIR}\n\ufeff${PAIR}`)).problems).toMatchObject([{ field: 'line[2]', reason: 'NOT_JSON' }]);
  });
});

const wellFormed = fc.string({ unit: 'binary' });
const messageOf = fc.record({ role: fc.constantFrom('system', 'user', 'assistant', 'tool'), content: wellFormed });
const conversation = fc.record({ messages: fc.array(messageOf, { minLength: 1, maxLength: 4 }) });

const contents = (examples: readonly Example[]) => examples.map(({ content }) => content);

it('what JSON.stringify wrote comes back, however the file is cut into pieces', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(conversation, { minLength: 1, maxLength: 5 }),
      fc.constantFrom('\n', '\r\n', 'list'),
      fc.array(fc.nat(), { maxLength: 8 }),
      async (lines, newline, cuts) => {
        const text =
          newline === 'list' ? JSON.stringify(lines, null, 2) : lines.map((line) => JSON.stringify(line)).join(newline);
        const { examples, problems } = await parse(text, null, cuts);
        expect(problems).toEqual([]);
        expect(contents(examples)).toEqual(lines.map(({ messages }) => ({ kind: 'messages', messages })));
      },
    ),
  );
});
