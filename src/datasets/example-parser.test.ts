import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Example, ExampleParser } from './example-parser.ts';
import type { ContractFormatName } from './formats.ts';
import { LineSplitter } from './line-splitter.ts';

function parse(bytes: Uint8Array | string, format: ContractFormatName | null = null, cuts: readonly number[] = []) {
  const parser = new ExampleParser(format, new LineSplitter(10_000));
  const whole = Buffer.from(bytes);
  const bounds = [0, ...[...cuts].map((cut) => cut % (whole.length + 1)).sort((a, b) => a - b), whole.length];
  const parts = bounds.slice(1).map((end, index) => parser.push(whole.subarray(bounds[index], end)));
  parts.push(parser.end());
  return {
    format: parser.format,
    examples: parts.flatMap((part) => part.examples),
    problems: parts.flatMap((part) => part.problems),
  };
}

const MESSAGES = '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}';
const PAIR = '{"prompt":"a","completion":"b"}';
const TOKENS = '{"input_ids":[1,2],"labels":[-100,2]}';

describe('layouts', () => {
  it.each([
    ['messages', MESSAGES],
    ['prompt_completion', PAIR],
    ['tokens', TOKENS],
  ])('%s is detected from the first line', (format, line) => {
    expect(parse(`${line}\n${line}\n`)).toMatchObject({ format, problems: [], examples: [{ line: 1 }, { line: 2 }] });
  });

  it.each([
    ['conversations', '{"conversations":[]}'],
    ['instruction', '{"instruction":"a","output":"b"}'],
    ['rounds', '{"query":"a","response":"b"}'],
    ['text', '{"text":"a"}'],
  ] as const)('%s is refused by name, found or given', (format, line) => {
    expect(() => parse(line)).toThrow(
      expect.objectContaining({ reason: 'NOT_BUILT_YET', message: expect.stringContaining(format) }),
    );
    expect(() => parse(line, format)).toThrow(expect.objectContaining({ reason: 'NOT_BUILT_YET' }));
  });

  it('a given layout counts more than the first line', () => {
    expect(parse(PAIR, 'messages').problems).toMatchObject([{ field: 'line[1]', reason: 'MIXED_FORMATS' }]);
  });

  it('keeps weights, and labels as they are', () => {
    const weighted = '{"messages":[{"role":"assistant","content":"b","weight":0}]}';
    expect(parse(weighted).examples[0]?.content).toEqual({
      kind: 'messages',
      messages: [{ role: 'assistant', content: 'b', weight: 0 }],
    });
    const labels = Int32Array.of(-100, 2);
    expect(parse(TOKENS).examples[0]?.content).toEqual({ kind: 'tokens', inputIds: Uint32Array.of(1, 2), labels });
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
  ])('%s', (_, line, field, reason) => {
    const { problems, examples } = parse(`${MESSAGES}\n${line}\n${MESSAGES}\n`);
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
  ])('tokens: %s', (_, line, field, reason) => {
    expect(parse(line).problems).toMatchObject([{ field, reason }]);
  });

  it('says what was expected and what was found', () => {
    const [problem] = parse('{"messages":[{"role":"user","content":7}]}').problems;
    expect(problem?.description).toBe('expected a text, found 7');
  });

  it('bytes that are no UTF-8, and lines beyond the limit', () => {
    const bytes = Buffer.concat([
      Buffer.from(`${PAIR}\n{"prompt":"`),
      Buffer.of(0xff),
      Buffer.from('","completion":""}\n'),
    ]);
    expect(parse(bytes).problems).toMatchObject([{ field: 'line[2]', reason: 'NOT_UTF8' }]);
    const long = `{"prompt":"${'x'.repeat(10_000)}","completion":""}`;
    expect(parse(`${PAIR}\n${long}\n${PAIR}`)).toMatchObject({
      problems: [{ field: 'line[2]', reason: 'LINE_TOO_LONG' }],
      examples: [{ line: 1 }, { line: 3 }],
    });
  });
});

describe('files as editors write them', () => {
  it('byte order mark, CRLF, blank lines, no newline at the end', () => {
    const { examples, problems } = parse(`\ufeff${PAIR}\r\n\r\n  \n${PAIR}`);
    expect(problems).toEqual([]);
    expect(examples.map(({ line }) => line)).toEqual([1, 4]);
  });

  it('a byte order mark further on is no blank', () => {
    expect(parse(`${PAIR}\n\ufeff${PAIR}`).problems).toMatchObject([{ field: 'line[2]', reason: 'NOT_JSON' }]);
  });
});

const wellFormed = fc.string({ unit: 'binary' });
const messageOf = fc.record({ role: fc.constantFrom('system', 'user', 'assistant', 'tool'), content: wellFormed });
const conversation = fc.record({ messages: fc.array(messageOf, { minLength: 1, maxLength: 4 }) });

const contents = (examples: readonly Example[]) => examples.map(({ content }) => content);

it('what JSON.stringify wrote comes back, however the file is cut into pieces', () => {
  fc.assert(
    fc.property(
      fc.array(conversation, { minLength: 1, maxLength: 5 }),
      fc.constantFrom('\n', '\r\n'),
      fc.array(fc.nat(), { maxLength: 8 }),
      (lines, newline, cuts) => {
        const text = lines.map((line) => JSON.stringify(line)).join(newline);
        const { examples, problems } = parse(text, null, cuts);
        expect(problems).toEqual([]);
        expect(contents(examples)).toEqual(lines.map(({ messages }) => ({ kind: 'messages', messages })));
      },
    ),
  );
});
