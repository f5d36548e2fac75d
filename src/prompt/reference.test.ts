/** The chat template gives the ids of transformers' `apply_chat_template`, which read the same GGUF file. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { readGgufTokenizer, testGgufPath } from '../../test/fixtures/gguf-header.ts';
import { loadTokenizer } from '../tokenizer/load.ts';
import { createRenderer } from './create-renderer.ts';
import type { Message } from './renderer.ts';

interface ChatIds {
  readonly messages: readonly Message[];
  readonly whole: readonly number[];
  readonly prompt: readonly number[];
}

describe('SmolLM2 from its GGUF file', () => {
  const fixture = new URL('../../test/fixtures/smollm2-corpus-ids.json', import.meta.url);
  const { chat } = JSON.parse(readFileSync(fixture, 'utf8')) as { readonly chat: readonly ChatIds[] };

  it('renders training examples and prompts as transformers does', async () => {
    const renderer = createRenderer(
      await loadTokenizer({ kind: 'gguf', metadata: readGgufTokenizer(testGgufPath()) }),
      null,
    );
    expect(chat.length).toBeGreaterThan(0);
    for (const { messages, whole, prompt } of chat) {
      expect([...renderer.renderTraining(messages, { trainOn: 'assistant' }).inputIds]).toEqual(whole);
      expect([...renderer.renderPrompt(messages.slice(0, -1)).inputIds]).toEqual(prompt);
    }
  });
});
