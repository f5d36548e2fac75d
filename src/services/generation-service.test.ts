import { expect, test } from 'vitest';
import { type ScriptedBatch, type ScriptedEngineOptions, scriptedEngine } from '../../test/fixtures/scripted-engine.ts';
import { tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import type { AdapterStore, StoredAdapter } from '../adapters/adapter-store.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { LoadIn } from '../gen/luthier/v1/common.ts';
import {
  FinishReason,
  GenerateRequest,
  type GenerateResponse,
  ScoreTokensRequest,
} from '../gen/luthier/v1/generation_service.ts';
import { createModelRegistry } from '../models/create-model-registry.ts';
import type { CallContext } from '../rpc/handlers.ts';
import { createGenerationService } from './generation-service.ts';
import { GenerationSlots } from './generation-slots.ts';

const tokenizer = tinyTokenizer();
const silent = { warn: () => undefined, info: () => undefined };

function context(signal: AbortSignal = new AbortController().signal): CallContext {
  return { signal, deadline: null, metadata: new Map(), peer: 'test', callId: 'call' };
}

interface Setup extends ScriptedEngineOptions {
  readonly adapters?: AdapterStore;
  readonly slots?: number;
  readonly maxPromptTokens?: number;
}

function setUp(options: Setup = {}) {
  const engine = scriptedEngine(options);
  const registry = createModelRegistry({ engine, models: { tiny: '/models/tiny.gguf' }, roots: [], logger: silent });
  const slots = new GenerationSlots(options.slots ?? 4);
  const service = createGenerationService({
    registry,
    adapters: options.adapters ?? null,
    slots,
    maxPromptTokens: options.maxPromptTokens ?? 1000,
  });
  const { generate, scoreTokens } = service;
  if (!generate || !scoreTokens) throw new Error('a method has no handler');
  const all = async (request: Parameters<typeof GenerateRequest.create>[0], signal?: AbortSignal) => {
    const events: GenerateResponse[] = [];
    for await (const event of generate(GenerateRequest.create(request), context(signal))) events.push(event);
    return events;
  };
  const score = (request: Parameters<typeof ScoreTokensRequest.create>[0]) =>
    scoreTokens(ScoreTokensRequest.create(request), context());
  return { engine, registry, slots, generate, all, score };
}

const text = (value: string) => ({ input: { $case: 'text' as const, value } });
const user = (content: string) => ({
  input: { $case: 'messages' as const, value: { messages: [{ role: 'user', content }] } },
});

const ids = (value: string): Uint32Array => tokenizer.encode(value);
const eos: ScriptedBatch = { finishReason: 'eos', eosTokenId: 2 };

const textOf = (events: readonly GenerateResponse[]): string =>
  events.map(({ event }) => (event?.$case === 'delta' ? event.value.text : '')).join('');

function finishedOf(events: readonly GenerateResponse[]) {
  const last = events.at(-1)?.event;
  if (last?.$case !== 'finished') throw new Error(`the last event is ${last?.$case}`);
  return last.value;
}

async function reasonOf(call: Promise<unknown>): Promise<LuthierError> {
  try {
    await call;
  } catch (error) {
    if (error instanceof LuthierError) return error;
    throw error;
  }
  throw new Error('expected a refusal');
}

test('messages are rendered with the chat template; started, deltas, finished; the template ends answers', async () => {
  const { all, engine } = setUp({ script: [{ tokenIds: ids('Hi') }, { tokenIds: ids(' you') }, eos] });
  const events = await all({ model: 'tiny', prompt: user('hello'), logprobs: true });
  const kinds = events.map(({ event }) => event?.$case);
  expect([kinds[0], kinds.at(-1)]).toEqual(['started', 'finished']);
  const [started, first] = events.map(({ event }) => event);
  expect(started?.$case === 'started' && started.value).toMatchObject({
    model: 'models/tiny',
    template: { id: 'chat-template' },
  });
  expect(first?.$case === 'delta' && first.value.logprobs).toEqual(
    first?.$case === 'delta' && first.value.tokenIds.map(() => -0.5),
  );
  expect(textOf(events)).toBe('Hi you');
  const [generation] = engine.generations;
  expect(tokenizer.decode(generation?.inputIds ?? [])).toMatch(
    /<\|im_start\|>user\nhello<\|im_end\|>\n<\|im_start\|>assistant\n$/,
  );
  expect(generation?.sampling.eosTokenIds).toEqual([2]);
  expect(generation?.sampling).toMatchObject({ temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 });
  const finished = finishedOf(events);
  expect(finished.reason).toBe(FinishReason.FINISH_REASON_EOS);
  expect(finished.completionTokens).toBe(ids('Hi').length + ids(' you').length);
  expect(finished.promptTokens).toBe(generation?.inputIds.length);
});

test('control tokens in a message stay text; in a text prompt only parse_special makes them tokens', async () => {
  const { all, engine } = setUp({ script: [eos] });
  await all({ model: 'tiny', prompt: user('<|im_end|>') });
  await all({ model: 'tiny', prompt: text('<|im_end|>') });
  await all({ model: 'tiny', prompt: { ...text('<|im_end|>'), parseSpecial: true } });
  const counts = engine.generations.map(({ inputIds }) => inputIds.filter((id) => id === 2).length);
  expect(counts).toEqual([2, 0, 1]);
});

test('characters that span tokens come whole; a cut one is returned as bytes', async () => {
  const tokens = Array.from(ids('a🙂b🙂'));
  const batches = tokens.slice(0, -1).map((id) => ({ tokenIds: Uint32Array.of(id) }));
  const { all } = setUp({ script: [...batches, { finishReason: 'length' }] });
  const events = await all({ model: 'tiny', prompt: text('x') });
  for (const { event } of events) if (event?.$case === 'delta') expect(event.value.text).not.toContain('\ufffd');
  expect(textOf(events)).toBe('a🙂b');
  expect(finishedOf(events).reason).toBe(FinishReason.FINISH_REASON_LENGTH);
  expect(Buffer.from(finishedOf(events).trailingBytes)).toEqual(Buffer.from('🙂').subarray(0, 3));
});

test('a stop string over several tokens ends the run and no part of it is given out', async () => {
  const script = [{ tokenIds: ids('one E') }, { tokenIds: ids('N') }, { tokenIds: ids('D two') }, eos];
  const { all, engine } = setUp({ script });
  const events = await all({ model: 'tiny', prompt: text('x'), sampling: { stop: ['END'] } });
  expect(textOf(events)).toBe('one ');
  expect(finishedOf(events)).toMatchObject({ reason: FinishReason.FINISH_REASON_STOP, stop: 'END' });
  expect(engine.generations[0]?.cancelled).toBe(true);
});

test('text held back for a stop string that never comes is given out at the end', async () => {
  const { all } = setUp({ script: [{ tokenIds: ids('one EN') }, eos] });
  expect(textOf(await all({ model: 'tiny', prompt: text('x'), sampling: { stop: ['END'] } }))).toBe('one EN');
});

test("a round template's stop string and answer prefix are used", async () => {
  const script = [{ tokenIds: ids(' fine') }, { tokenIds: ids('\n\nHuman: next') }, eos];
  const { all, registry } = setUp({ script });
  const renderer = await registry.renderer('tiny', 'instruction');
  const events = await all({ model: 'tiny', prompt: { ...user('hi'), template: 'instruction' } });
  expect(renderer.stopStrings.length).toBeGreaterThan(0);
  expect(textOf(events)).toBe(renderer.answerPrefix === ' ' ? 'fine' : ' fine');
  expect(finishedOf(events).reason).toBe(FinishReason.FINISH_REASON_STOP);
});

test('load_in says how the weights are held, as stored by default; an unknown value is refused', async () => {
  const { all, score, engine } = setUp({ script: [eos] });
  await all({ model: 'tiny', prompt: text('hello') });
  await all({ model: 'tiny', prompt: text('hello'), loadIn: LoadIn.LOAD_IN_4BIT });
  await score({ model: 'tiny', prompt: text('hello'), loadIn: LoadIn.LOAD_IN_8BIT });
  await score({ model: 'tiny', prompt: text('hello'), loadIn: LoadIn.LOAD_IN_4BIT });
  await score({ model: 'tiny', prompt: text('hello'), loadIn: LoadIn.LOAD_IN_4BIT_PLAIN });
  expect(engine.storages).toEqual(['stored', 'nf4_double_quant', 'int8', 'nf4']);
  const refused = await reasonOf(all({ model: 'tiny', prompt: text('hello'), loadIn: 9 as LoadIn }));
  expect(refused).toMatchObject({ reason: 'INVALID_REQUEST', violations: [{ field: 'load_in' }] });
});

test('an aborted call stops the run at once and frees its slot and its model', async () => {
  const { generate, engine, slots, registry } = setUp({ script: [{ tokenIds: ids('a') }, 'wait'] });
  const controller = new AbortController();
  const events: GenerateResponse[] = [];
  const request = GenerateRequest.create({ model: 'tiny', prompt: text('x') });
  for await (const event of generate(request, context(controller.signal))) {
    events.push(event);
    if (event.event?.$case === 'delta') {
      expect(slots.active).toBe(1);
      controller.abort();
    }
  }
  expect(engine.generations[0]?.cancelled).toBe(true);
  expect(finishedOf(events).reason).toBe(FinishReason.FINISH_REASON_CANCELLED);
  expect(slots.active).toBe(0);
  expect((await registry.get('tiny')).users).toBe(0);
});

test('a consumer that leaves stops the run', async () => {
  const { generate, engine, slots } = setUp({ script: [{ tokenIds: ids('a') }, { tokenIds: ids('b') }, 'wait'] });
  for await (const { event } of generate(GenerateRequest.create({ model: 'tiny', prompt: text('x') }), context())) {
    if (event?.$case === 'delta') break;
  }
  expect(engine.generations[0]?.cancelled).toBe(true);
  expect(slots.active).toBe(0);
});

test('max_new_tokens: by default at most 256, never beyond the context; ignore_eos; a seed is drawn and returned', async () => {
  const { all, engine } = setUp({ script: [eos], metadata: { maxPositionEmbeddings: 300 } });
  const prompt = { input: { $case: 'tokenIds' as const, value: { ids: [5, 6] } } };
  await all({ model: 'tiny', prompt });
  await all({ model: 'tiny', prompt, sampling: { maxNewTokens: 300, ignoreEos: true, seed: 7 } });
  const events = await all({ model: 'tiny', prompt });
  expect(engine.generations.map(({ sampling }) => sampling.maxNewTokens)).toEqual([256, 298, 256]);
  expect(engine.generations[1]?.sampling).toMatchObject({ eosTokenIds: [], seed: 7 });
  const started = events[0]?.event;
  expect(started?.$case === 'started' && started.value.seed).toBe(engine.generations[2]?.sampling.seed);
  const error = await reasonOf(all({ model: 'tiny', prompt, sampling: { maxNewTokens: 301 } }));
  expect(error.violations[0]?.field).toBe('sampling.max_new_tokens');
});

test('a prompt as long as the context leaves no room and is refused with the numbers before the model is loaded', async () => {
  const { all, engine, slots } = setUp({ metadata: { maxPositionEmbeddings: 4 } });
  const prompt = { input: { $case: 'tokenIds' as const, value: { ids: [5, 6, 7, 8] } } };
  const error = await reasonOf(all({ model: 'tiny', prompt }));
  expect(error.reason).toBe('SEQUENCE_TOO_LONG');
  expect(error.metadata).toEqual({ tokens: '4', limit: '3' });
  expect(engine.loads).toEqual([]);
  expect(slots.active).toBe(0);
  const { all: limited } = setUp({ maxPromptTokens: 3 });
  expect((await reasonOf(limited({ model: 'tiny', prompt }))).reason).toBe('SEQUENCE_TOO_LONG');
});

test.each([
  ['model', { prompt: text('x') }],
  ['prompt', { model: 'tiny' }],
  ['prompt', { model: 'tiny', prompt: text('') }],
  ['prompt.input', { model: 'tiny', prompt: {} }],
  ['prompt.token_ids.ids', { model: 'tiny', prompt: { input: { $case: 'tokenIds' as const, value: { ids: [] } } } }],
  [
    'prompt.token_ids.ids[1]',
    { model: 'tiny', prompt: { input: { $case: 'tokenIds' as const, value: { ids: [1, 280] } } } },
  ],
  [
    'prompt.messages.messages',
    { model: 'tiny', prompt: { input: { $case: 'messages' as const, value: { messages: [] } } } },
  ],
  [
    'prompt.messages.messages[0].role',
    {
      model: 'tiny',
      prompt: { input: { $case: 'messages' as const, value: { messages: [{ role: 'bot', content: '' }] } } },
    },
  ],
  ['prompt.parse_special', { model: 'tiny', prompt: { ...user('x'), parseSpecial: true } }],
  ['prompt.template', { model: 'tiny', prompt: { ...text('x'), template: 'concat' } }],
  ['sampling.temperature', { model: 'tiny', prompt: text('x'), sampling: { temperature: Number.NaN } }],
  ['sampling.temperature', { model: 'tiny', prompt: text('x'), sampling: { temperature: -0.1 } }],
  ['sampling.top_p', { model: 'tiny', prompt: text('x'), sampling: { topP: 0 } }],
  ['sampling.top_p', { model: 'tiny', prompt: text('x'), sampling: { topP: Number.POSITIVE_INFINITY } }],
  ['sampling.min_p', { model: 'tiny', prompt: text('x'), sampling: { minP: 1.01 } }],
  ['sampling.repetition_penalty', { model: 'tiny', prompt: text('x'), sampling: { repetitionPenalty: 0 } }],
  ['sampling.max_new_tokens', { model: 'tiny', prompt: text('x'), sampling: { maxNewTokens: 0 } }],
  ['sampling.stop[0]', { model: 'tiny', prompt: text('x'), sampling: { stop: [''] } }],
  ['sampling.stop', { model: 'tiny', prompt: text('x'), sampling: { stop: Array(17).fill('a') } }],
])('a wrong %s is refused by its name', async (field, request) => {
  const error = await reasonOf(setUp().all(request));
  expect(error.reason).toBe('INVALID_REQUEST');
  expect(error.violations.map((violation) => violation.field)).toContain(field);
});

test('an unknown model, template and adapter', async () => {
  const { all } = setUp();
  expect((await reasonOf(all({ model: 'other', prompt: text('x') }))).reason).toBe('MODEL_NOT_FOUND');
  expect((await reasonOf(all({ model: 'tiny', adapter: 'a', prompt: text('x') }))).reason).toBe('ADAPTER_NOT_FOUND');
  const prompt = { ...user('x'), template: 'nothing' };
  expect((await reasonOf(all({ model: 'tiny', prompt }))).reason).toBe('TEMPLATE_NOT_FOUND');
});

test('more generations than the limit are refused as retryable, and a slot is free again afterwards', async () => {
  const { generate, all } = setUp({ script: [{ tokenIds: ids('a') }, 'wait'], slots: 1 });
  const first = generate(GenerateRequest.create({ model: 'tiny', prompt: text('x') }), context())[
    Symbol.asyncIterator
  ]();
  await first.next();
  expect((await reasonOf(all({ model: 'tiny', prompt: text('x') }))).reason).toBe('SERVER_BUSY');
  await first.return?.();
  const next = generate(GenerateRequest.create({ model: 'tiny', prompt: text('x') }), context())[
    Symbol.asyncIterator
  ]();
  expect((await next.next()).value?.event?.$case).toBe('started');
  await next.return?.();
});

function adapterStore(origin: Partial<StoredAdapter['origin']>): AdapterStore & { released: number } {
  const info = {
    r: 4,
    loraAlpha: 8,
    useRslora: false,
    targetModules: ['q_proj'],
    parameterCount: 64,
    sha256: 'ab',
    metadata: null,
  };
  const adapter: StoredAdapter = {
    name: 'adapters/a',
    baseModel: 'models/tiny',
    info,
    origin: {
      baseModelName: 'tiny',
      baseModelHash: 'c0ffee',
      templateId: '',
      templateHash: '',
      template: '',
      ...origin,
    },
    templateVersion: '1',
    sizeBytes: 1,
    trainingJob: '',
    createTime: new Date(0),
    folder: '/adapters/a',
  };
  const store = {
    released: 0,
    get: () => adapter,
    acquire: async () => ({
      adapter,
      handle: { info, close: () => undefined },
      release: () => {
        store.released += 1;
      },
    }),
  };
  return store;
}

test("an adapter knows its base and its template; both are held for the run's time only", async () => {
  const hash = (await setUp().registry.renderer('tiny', 'tutorial')).template.hash;
  const adapters = adapterStore({ templateId: 'tutorial', templateHash: hash });
  const { all, engine } = setUp({ adapters, script: [eos] });
  const events = await all({ adapter: 'a', prompt: user('hello') });
  const started = events[0]?.event;
  expect(started?.$case === 'started' && started.value).toMatchObject({
    model: 'models/tiny',
    adapter: 'adapters/a',
    template: { id: 'tutorial', hash },
    warnings: [],
  });
  expect(engine.generations[0]?.adapter).not.toBeNull();
  expect(adapters.released).toBe(1);
});

test('another template than the one trained with is refused, both named, unless that is allowed', async () => {
  const { registry } = setUp();
  const { hash } = (await registry.renderer('tiny', 'tutorial')).template;
  const other = (await registry.renderer('tiny', 'concat')).template.hash;
  const { all, score } = setUp({
    adapters: adapterStore({ templateId: 'tutorial', templateHash: hash }),
    script: [eos],
  });
  const concat = { ...user('hello'), template: 'concat' };
  const error = await reasonOf(all({ adapter: 'a', prompt: concat }));
  expect(error.reason).toBe('TEMPLATE_MISMATCH');
  expect(error.message).toBe(
    `adapters/a was trained with template tutorial (${hash.slice(0, 12)}), the prompt is rendered with concat (${other.slice(0, 12)}): leave the template out to use the adapter's own, or set allow_template_mismatch to go on with this one`,
  );
  const scored = await reasonOf(score({ adapter: 'a', prompt: concat }));
  expect(scored.reason).toBe('TEMPLATE_MISMATCH');
  const allowed = { adapter: 'a', prompt: { ...concat, allowTemplateMismatch: true } };
  expect((await score(allowed)).warnings).toEqual([expect.stringContaining('trained with template tutorial')]);
  const events = await all(allowed);
  const started = events[0]?.event;
  expect(started?.$case === 'started' && started.value).toMatchObject({
    template: { id: 'concat' },
    warnings: [expect.stringContaining('trained with template tutorial')],
  });
});

test("a model's own template that has changed since training is refused", async () => {
  const { all } = setUp({ adapters: adapterStore({ templateId: 'chat-template', templateHash: 'before' }) });
  const error = await reasonOf(all({ adapter: 'a', prompt: user('hello') }));
  expect(error.reason).toBe('TEMPLATE_MISMATCH');
  expect(error.message).toContain("the model's own template has changed since");
});

test('an adapter that brings its template is asked with it; one that says nothing of it warns', async () => {
  const { registry } = setUp();
  const { template, templateFile } = await registry.renderer('tiny', 'id: mine\nuser: "Q: {content} A:"');
  const brings = { templateId: 'mine', templateHash: template.hash, template: templateFile ?? '' };
  const startedOf = async (origin: object) => {
    const events = await setUp({ adapters: adapterStore(origin), script: [eos] }).all({
      adapter: 'a',
      prompt: user('hello'),
    });
    const started = events[0]?.event;
    return started?.$case === 'started' ? started.value : null;
  };
  expect(await startedOf(brings)).toMatchObject({ template: { id: 'mine', hash: template.hash }, warnings: [] });
  expect(await startedOf({})).toMatchObject({
    template: { id: 'chat-template' },
    warnings: [expect.stringContaining('adapters/a does not say which template it was trained with')],
  });
});

test('ScoreTokens: log-probabilities after the first id, the highest logits at each, the mean', async () => {
  const { score } = setUp();
  const prompt = { input: { $case: 'tokenIds' as const, value: { ids: [5, 6, 7] } } };
  const response = await score({ model: 'tiny', prompt, topLogits: 2 });
  expect(response.tokens.map((token) => token.logprob)).toEqual([undefined, -1, -2]);
  expect(response.tokens[2]?.topLogits).toEqual([
    { tokenId: 0, logit: -0 },
    { tokenId: 1, logit: -1 },
  ]);
  expect(response.meanNll).toBe(1.5);
  expect((await reasonOf(score({ model: 'tiny', prompt, topLogits: 101 }))).violations[0]?.field).toBe('top_logits');
});

test('ScoreTokens: a conversation that ends with an answer is scored without another answer begun', async () => {
  const { score } = setUp();
  const conversation = (roles: readonly string[]) => ({
    input: {
      $case: 'messages' as const,
      value: { messages: roles.map((role) => ({ role, content: 'x' })) },
    },
  });
  const shown = async (roles: readonly string[]): Promise<string> => {
    const { tokens } = await score({ model: 'tiny', prompt: conversation(roles) });
    return tokens.map((token) => token.text).join('');
  };
  expect(await shown(['user', 'assistant'])).toMatch(/assistant\nx<\|im_end\|>\n$/);
  expect(await shown(['user'])).toMatch(/<\|im_start\|>assistant\n$/);
});
