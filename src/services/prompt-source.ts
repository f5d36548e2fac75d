/** From a request's model, adapter and prompt to the ids that the engine reads, and what holds them in memory. */
import type { AdapterLease, AdapterStore, StoredAdapter } from '../adapters/adapter-store.ts';
import { otherTemplate, shownTemplate } from '../adapters/template-mismatch.ts';
import type { AdapterHandle, BaseModel } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import type { LoadIn } from '../gen/luthier/v1/common.ts';
import type { ModelLease, ModelRegistry } from '../models/model-registry.ts';
import type { PromptOptions, Renderer } from '../prompt/renderer.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { checkTokenIds } from './tokenizer-service.ts';
import type { PromptInput } from './validate/prompt.ts';

export interface PromptSourceDependencies {
  readonly registry: ModelRegistry;
  /** Null: this server keeps no adapters. */
  readonly adapters: AdapterStore | null;
  /** Longest prompt, beside the model's context. */
  readonly maxPromptTokens: number;
}

export interface PromptRequest {
  readonly model: string;
  readonly adapter: string;
  readonly prompt: PromptInput;
  readonly loadIn: LoadIn;
}

/** A prompt in ids with the model and the adapter it is for, both in memory until `release`. */
export interface PreparedPrompt {
  readonly model: BaseModel;
  /** `models/{id}`. */
  readonly modelName: string;
  readonly adapter: StoredAdapter | null;
  readonly adapterHandle: AdapterHandle | null;
  readonly tokenizer: Tokenizer;
  readonly inputIds: Uint32Array;
  /** What rendered messages; null for text and ids. */
  readonly renderer: Renderer | null;
  readonly warnings: readonly string[];
  /** Idempotent. */
  release(): void;
}

/**
 * The renderer for messages: the template asked for, else the one that the adapter was trained with, else the model's own. Behind another template
 * than the one that trained it an adapter answers badly and silently: that is refused unless the request allows it, and then a warning.
 * @throws LuthierError TEMPLATE_MISMATCH; what the registry throws
 */
async function rendererFor(
  registry: ModelRegistry,
  model: string,
  { template: asked, allowTemplateMismatch }: PromptInput,
  adapter: StoredAdapter | null,
): Promise<{ renderer: Renderer; warnings: string[] }> {
  if (adapter === null) return { renderer: await registry.renderer(model, asked), warnings: [] };
  const { template, templateId, templateHash } = adapter.origin;
  const renderer = await registry.renderer(model, asked || template || templateId);
  const rendered = shownTemplate(renderer.template);
  if (templateHash === '') {
    const unknown = `${adapter.name} does not say which template it was trained with; the prompt is rendered with ${rendered}`;
    return { renderer, warnings: [unknown] };
  }
  const trained = otherTemplate(adapter, renderer.template);
  if (trained === null) return { renderer, warnings: [] };
  const difference = `${trained}, the prompt is rendered with ${rendered}`;
  if (allowTemplateMismatch) return { renderer, warnings: [difference] };
  const changed = `the model's own template has changed since; put back the one it was trained with`;
  const another = `leave the template out to use the adapter's own`;
  throw new LuthierError(
    'TEMPLATE_MISMATCH',
    `${difference}: ${asked === '' ? changed : another}, or set allow_template_mismatch to go on with this one`,
    { metadata: { trained_with: templateHash, rendered_with: renderer.template.hash } },
  );
}

interface Encoded {
  readonly inputIds: Uint32Array;
  readonly renderer: Renderer | null;
  readonly warnings: readonly string[];
}

async function encodePrompt(
  registry: ModelRegistry,
  model: string,
  prompt: PromptInput,
  adapter: StoredAdapter | null,
  options: PromptOptions,
): Promise<Encoded> {
  const { input } = prompt;
  switch (input.$case) {
    case 'messages': {
      const { renderer, warnings } = await rendererFor(registry, model, prompt, adapter);
      const { messages, tools } = input.value;
      return { inputIds: renderer.renderPrompt(messages, { ...options, tools }).inputIds, renderer, warnings };
    }
    case 'text': {
      const encoding = { parseSpecial: prompt.parseSpecial, addSpecialTokens: true };
      return { inputIds: await registry.encode(model, input.value, encoding), renderer: null, warnings: [] };
    }
    case 'tokenIds':
      return { inputIds: Uint32Array.from(input.value.ids), renderer: null, warnings: [] };
  }
}

/** @throws LuthierError SEQUENCE_TOO_LONG with the numbers */
function checkLength(tokens: number, room: number, limit: string): void {
  if (tokens === 0) {
    const description = 'expected at least one token, found none';
    throw new LuthierError('INVALID_REQUEST', `prompt: ${description}`, {
      violations: [{ field: 'prompt', description, reason: 'EMPTY_PROMPT' }],
    });
  }
  if (tokens <= room) return;
  const description = `found ${tokens} tokens, expected at most ${room} (${limit}); shorten it`;
  throw new LuthierError('SEQUENCE_TOO_LONG', `the prompt is too long: ${description}`, {
    violations: [{ field: 'prompt', description, reason: 'SEQUENCE_TOO_LONG' }],
    metadata: { tokens: String(tokens), limit: String(room) },
  });
}

function storedAdapter(adapters: AdapterStore | null, name: string): StoredAdapter | null {
  if (name === '') return null;
  if (adapters) return adapters.get(name);
  throw new LuthierError('ADAPTER_NOT_FOUND', `there is no adapter ${JSON.stringify(name)}: this server keeps none`, {
    resource: { type: 'adapter', name },
  });
}

/**
 * Checks and encodes a prompt before anything is loaded, then brings model and adapter into memory.
 * @param room Tokens of the context that must be left for the answer.
 */
export async function preparePrompt(
  dependencies: PromptSourceDependencies,
  request: PromptRequest,
  room: number,
  options: PromptOptions = {},
): Promise<PreparedPrompt> {
  const { registry, adapters, maxPromptTokens } = dependencies;
  const adapter = storedAdapter(adapters, request.adapter);
  const registered = await registry.get(request.model === '' ? (adapter?.baseModel ?? '') : request.model);
  const { vocabSize, maxPositionEmbeddings } = registered.metadata;
  if (request.prompt.input.$case === 'tokenIds') {
    checkTokenIds(request.prompt.input.value.ids, vocabSize, 'prompt.token_ids.ids');
  }
  const encoded = await encodePrompt(registry, registered.name, request.prompt, adapter, options);
  checkLength(encoded.inputIds.length, maxPromptTokens, "the server's limit");
  const contextLimit =
    room === 0 ? "the model's context" : `the model's context of ${maxPositionEmbeddings} less ${room} for the answer`;
  checkLength(encoded.inputIds.length, maxPositionEmbeddings - room, contextLimit);
  const tokenizer = await registry.tokenizer(registered.name);

  const modelLease: ModelLease = await registry.acquire(registered.name, request.loadIn);
  let adapterLease: AdapterLease | null = null;
  try {
    if (adapter && adapters) adapterLease = await adapters.acquire(adapter.name, modelLease);
  } catch (error) {
    modelLease.release();
    throw error;
  }
  return {
    ...encoded,
    model: modelLease.model,
    modelName: registered.name,
    adapter,
    adapterHandle: adapterLease?.handle ?? null,
    tokenizer,
    release: () => {
      adapterLease?.release();
      modelLease.release();
    },
  };
}
