import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { ChatTemplateRenderer } from './chat-template-renderer.ts';
import { type TemplateDefinition, templateIdentity } from './definition.ts';
import { PromptError } from './errors.ts';
import { PRESETS } from './presets.ts';
import type { Renderer } from './renderer.ts';
import { TurnRenderer } from './turn-renderer.ts';

const CHAT_TEMPLATE_ID = 'chat-template';

/** Names that `createRenderer` knows. */
export const TEMPLATE_NAMES: readonly string[] = [CHAT_TEMPLATE_ID, ...PRESETS.keys()];

const VERSION = '1';

function rendererOf(tokenizer: Tokenizer, id: string, version: string, definition: TemplateDefinition): Renderer {
  const identity = templateIdentity(id, version, definition);
  return definition.kind === 'chat-template'
    ? new ChatTemplateRenderer(tokenizer, identity, definition)
    : new TurnRenderer(tokenizer, identity, definition);
}

/**
 * The renderer of a named template, or of a definition that the caller brings. Null: the model's own chat template.
 *
 * @throws PromptError where the name is unknown, or the model has no chat template
 */
export function createRenderer(tokenizer: Tokenizer, template: string | TemplateDefinition | null): Renderer {
  if (template !== null && typeof template !== 'string') return rendererOf(tokenizer, 'custom', VERSION, template);
  const name = template ?? CHAT_TEMPLATE_ID;
  if (name === CHAT_TEMPLATE_ID) {
    if (tokenizer.chatTemplate === null) {
      throw new PromptError(
        'NO_CHAT_TEMPLATE',
        `the model has no chat template of its own; name one of ${[...PRESETS.keys()].join(', ')}`,
      );
    }
    return rendererOf(tokenizer, name, VERSION, { kind: 'chat-template', source: tokenizer.chatTemplate });
  }
  const preset = PRESETS.get(name);
  if (!preset)
    throw new PromptError(
      'UNKNOWN_TEMPLATE',
      `template ${JSON.stringify(name)} is unknown; expected one of ${TEMPLATE_NAMES.join(', ')}`,
    );
  return rendererOf(tokenizer, name, preset.version, preset.definition);
}
