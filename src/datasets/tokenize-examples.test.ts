import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { createRenderer } from '../prompt/create-renderer.ts';
import { renderBatch } from '../prompt/render-batch.ts';
import type { Message } from '../prompt/renderer.ts';
import { type BatchRenderer, ExampleTokenizer, learnedLabels, type TokenizeOptions } from './tokenize-examples.ts';

const tokenizer = tinyTokenizer();
/** A line for each message, answers learned with the newline that ends them: lengths are easy to see. */
const SOURCE =
  '{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}';
const renderer = createRenderer(tokenizer, { kind: 'chat-template', source: SOURCE });
const pool: BatchRenderer = {
  renderTraining: async (conversations, options) => renderBatch(renderer, conversations, options),
};

const options = (more: Partial<TokenizeOptions>): TokenizeOptions => ({
  trainOn: 'assistant',
  maxSeqLength: 1000,
  overLength: 'error',
  vocabSize: tokenizer.vocabSize,
  ...more,
});

const user = (content: string): Message => ({ role: 'user', content });
const assistant = (content: string): Message => ({ role: 'assistant', content });
const conversation = (messages: readonly Message[], line = 1) => ({
  index: line - 1,
  line,
  content: { kind: 'messages' as const, messages },
});
const exact = (inputIds: number[], labels: number[], line = 1) => ({
  index: line - 1,
  line,
  content: { kind: 'tokens' as const, inputIds: Uint32Array.from(inputIds), labels: Int32Array.from(labels) },
});

const lengthOf = (messages: readonly Message[]): number =>
  renderer.renderTraining(messages, { trainOn: 'assistant' }).inputIds.length;
const textOf = (ids: Uint32Array): string => tokenizer.decode(ids, { skipSpecialTokens: true });

const ROUNDS = [user('one'), assistant('1'), user('two'), assistant('2'), user('three'), assistant('3')];
const SYSTEM: Message = { role: 'system', content: 'brief' };
const LONG = [SYSTEM, ...ROUNDS];

async function run(more: Partial<TokenizeOptions>, ...examples: Parameters<ExampleTokenizer['tokenize']>[0]) {
  const tokenizing = new ExampleTokenizer(pool, options(more));
  return { ...(await tokenizing.tokenize(examples)), counts: tokenizing.counts };
}

describe('examples that are too long', () => {
  const maxSeqLength = lengthOf([SYSTEM, ...ROUNDS.slice(2)]);

  it('error: refused with both lengths and the line', async () => {
    const { problems, kept } = await run({ maxSeqLength }, conversation(LONG, 7));
    expect(kept).toEqual([]);
    expect(problems).toMatchObject([{ field: 'line[7]', reason: 'SEQUENCE_TOO_LONG' }]);
    expect(problems[0]?.description).toContain(`at most ${maxSeqLength} tokens, found ${lengthOf(LONG)}`);
  });

  it('drop_rounds: the system prompt and the newest whole rounds stay, as many as fit', async () => {
    const result = await run({ maxSeqLength, overLength: 'drop_rounds' }, conversation(LONG), conversation(ROUNDS, 2));
    expect(result.problems).toEqual([]);
    expect(textOf(result.kept[0]?.inputIds ?? new Uint32Array())).toBe(
      textOf(renderer.renderTraining([SYSTEM, ...ROUNDS.slice(2)], { trainOn: 'assistant' }).inputIds),
    );
    expect(result.counts).toEqual({ truncated: 0, shortened: lengthOf(ROUNDS) > maxSeqLength ? 2 : 1, dropped: 0 });
  });

  it('drop_rounds: a newest round that does not fit is refused', async () => {
    const { problems } = await run({ maxSeqLength: 4, overLength: 'drop_rounds' }, conversation(LONG));
    expect(problems).toMatchObject([{ field: 'line[1]', reason: 'SEQUENCE_TOO_LONG' }]);
    expect(problems[0]?.description).toContain('newest round alone');
  });

  it('drop_rounds keeps as many rounds as fit, for any conversation and limit', async () => {
    const round = fc.tuple(fc.string({ maxLength: 8 }), fc.string({ maxLength: 8 }));
    const check = async (head: boolean, texts: [string, string][], limit: number): Promise<void> => {
      const rounds = texts.map(([question, answer]) => [user(question), assistant(answer)]);
      const system = head ? [SYSTEM] : [];
      const candidates = rounds.map((_, first) => [...system, ...rounds.slice(first).flat()]);
      const expected = candidates.find((messages) => lengthOf(messages) <= limit);
      const example = conversation([...system, ...rounds.flat()]);
      const { kept, problems } = await run({ maxSeqLength: limit, overLength: 'drop_rounds' }, example);
      expect(problems).toHaveLength(expected ? 0 : 1);
      const ids = expected && renderer.renderTraining(expected, { trainOn: 'assistant' }).inputIds;
      expect(kept[0]?.inputIds).toEqual(ids);
    };
    await fc.assert(
      fc.asyncProperty(
        fc.boolean(),
        fc.array(round, { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 3, max: 80 }),
        check,
      ),
      { numRuns: 60 },
    );
  });

  it('truncate: the end is cut off; what then has nothing to learn is left out', async () => {
    const examples = [exact([1, 2, 3], [-100, 2, 3]), exact([1, 2, 3], [-100, -100, 3], 2)];
    const { kept, problems, counts } = await run({ maxSeqLength: 2, overLength: 'truncate' }, ...examples);
    expect(problems).toEqual([]);
    expect(kept).toMatchObject([{ example: { line: 1 }, inputIds: Uint32Array.of(1, 2), labelTokens: 1 }]);
    expect(counts).toEqual({ truncated: 1, shortened: 0, dropped: 1 });
  });

  it('whatever the policy: what is kept fits and has something to learn, and every example is kept, counted or told', async () => {
    const id = fc.integer({ min: 0, max: tokenizer.vocabSize - 1 });
    const label = fc.oneof(id, fc.constant(-100));
    const tokens = fc.array(fc.tuple(id, label), { minLength: 1, maxLength: 12 });
    const round = fc.tuple(
      fc.string({ maxLength: 6 }),
      fc.string({ maxLength: 6 }),
      fc.constantFrom(0 as const, 1 as const),
    );
    const rounds = fc.array(round, { minLength: 1, maxLength: 4 });
    const content = (value: [string, string, 0 | 1][]) =>
      value.flatMap(([question, answer, weight]) => [user(question), { ...assistant(answer), weight }]);
    const check = async (
      overLength: TokenizeOptions['overLength'],
      exactIds: [number, number][][],
      texts: [string, string, 0 | 1][][],
      maxSeqLength: number,
    ): Promise<void> => {
      // Exact ids have no rounds.
      const ids = overLength === 'drop_rounds' ? [] : exactIds;
      const examples = [
        ...ids.map((pairs, line) =>
          exact(
            pairs.map(([one]) => one),
            pairs.map(([, one]) => one),
            line + 1,
          ),
        ),
        ...texts.map((value, line) => conversation(content(value), ids.length + line + 1)),
      ];
      const { kept, problems, counts } = await run({ maxSeqLength, overLength }, ...examples);
      expect(kept.length + problems.length + counts.dropped).toBe(examples.length);
      for (const one of kept) {
        expect(one.inputIds.length).toBeLessThanOrEqual(maxSeqLength);
        expect(one.labels.length).toBe(one.inputIds.length);
        expect(one.labelTokens).toBe(learnedLabels(one.labels));
        expect(one.labelTokens).toBeGreaterThan(0);
      }
      expect(counts.truncated + counts.shortened).toBeLessThanOrEqual(kept.length);
      const silent = {
        error: ['truncated', 'shortened', 'dropped'],
        truncate: ['shortened'],
        drop: ['truncated', 'shortened'],
        drop_rounds: ['truncated'],
      } as const;
      for (const count of silent[overLength]) expect(counts[count]).toBe(0);
      const lines = [...kept.map(({ example }) => example.line)];
      expect(lines).toEqual(lines.toSorted((a, b) => a - b));
    };
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('error', 'truncate', 'drop', 'drop_rounds'),
        fc.array(tokens, { maxLength: 5 }),
        fc.array(rounds, { maxLength: 4 }),
        fc.integer({ min: 1, max: 40 }),
        check,
      ),
      { numRuns: 150 },
    );
  });

  it('drop: left out and counted', async () => {
    const examples = [exact([1, 2, 3], [-100, 2, 3]), exact([1, 2], [-100, 2], 2)];
    const { kept, counts } = await run({ maxSeqLength: 2, overLength: 'drop' }, ...examples);
    expect(kept.map(({ example }) => example.line)).toEqual([2]);
    expect(counts).toEqual({ truncated: 0, shortened: 0, dropped: 1 });
  });
});

describe('examples that cannot be learned', () => {
  it.each([
    ['no label', exact([1, 2], [-100, -100], 4)],
    ['a label where nothing stands before it', exact([1, 2], [1, -100], 4)],
    ['no answer', conversation([user('hello')], 4)],
    ['only answers of weight 0', conversation([user('hello'), { ...assistant('x'), weight: 0 as const }], 4)],
  ])('%s', async (_, example) => {
    expect((await run({}, example)).problems).toMatchObject([{ field: 'line[4]', reason: 'NO_TRAINABLE_TOKENS' }]);
  });

  it('ids beyond the vocabulary, in ids and in labels', async () => {
    const beyond = tokenizer.vocabSize;
    const { problems } = await run({}, exact([1, beyond], [1, 1]), exact([1, 1], [1, beyond], 2));
    expect(problems).toMatchObject([
      { field: 'line[1].input_ids[1]', reason: 'UNKNOWN_TOKEN_ID' },
      { field: 'line[2].labels[1]', reason: 'UNKNOWN_TOKEN_ID' },
    ]);
  });

  it('a template that refuses an example names its line; the others are kept', async () => {
    const bad = conversation([{ role: 'user', content: 'x', weight: 1 }], 2);
    const { problems, kept } = await run({}, conversation(ROUNDS), bad, conversation(ROUNDS, 3));
    expect(problems).toMatchObject([{ field: 'line[2]', reason: 'INVALID_MESSAGES' }]);
    expect(kept.map(({ example }) => example.line)).toEqual([1, 3]);
  });
});

it('exact ids arrive untouched', async () => {
  const { kept } = await run({}, exact([5, 6, 7], [-100, 9, 7]));
  expect(kept).toMatchObject([
    { inputIds: Uint32Array.of(5, 6, 7), labels: Int32Array.of(-100, 9, 7), labelTokens: 2 },
  ]);
  expect(learnedLabels(Int32Array.of(3, -100, 3))).toBe(1);
});
