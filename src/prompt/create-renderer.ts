import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { ChatTemplateRenderer } from './chat-template-renderer.ts';
import { type TemplateDefinition, templateIdentity } from './definition.ts';
import { PromptError } from './errors.ts';
import { preset } from './presets.ts';
import type { Renderer } from './renderer.ts';
import { parseTemplateFile, TEMPLATE_ID, type TemplateFile } from './template-file.ts';
import { CHAT_TEMPLATE_ID, PRESET_NAMES, TEMPLATE_NAMES } from './template-names.ts';
import { TurnRenderer } from './turn-renderer.ts';

const CHAT_TEMPLATE_VERSION = '1';

const turnRenderer = (tokenizer: Tokenizer, { id, version, definition }: TemplateFile): Renderer =>
  new TurnRenderer(tokenizer, templateIdentity(id, version, definition), definition);

function chatTemplateRenderer(tokenizer: Tokenizer, source: string): Renderer {
  const definition = { kind: 'chat-template', source } as const;
  const identity = templateIdentity(CHAT_TEMPLATE_ID, CHAT_TEMPLATE_VERSION, definition);
  return new ChatTemplateRenderer(tokenizer, identity, definition);
}

/** A file may not pass for a preset: adapters are known by a template's name, too. */
function checkName(file: TemplateFile): void {
  if (file.id === CHAT_TEMPLATE_ID) {
    throw new PromptError('INVALID_TEMPLATE', `id: ${file.id} is the name of the model's own; choose another`);
  }
  const known = preset(file.id);
  if (known === null || known.version !== file.version) return;
  const hash = ({ id, version, definition }: TemplateFile): string => templateIdentity(id, version, definition).hash;
  if (hash(known) === hash(file)) return;
  throw new PromptError(
    'INVALID_TEMPLATE',
    `id: version ${file.version} of ${file.id} is a preset, and it reads otherwise; choose another id`,
  );
}

/**
 * The renderer of a template: a name, the text of a template file (`template-file.ts`), or a definition. Null: the model's own chat template.
 *
 * @throws PromptError where the name is unknown, the file is not valid, or the template does not suit the model
 */
export function createRenderer(tokenizer: Tokenizer, template: string | TemplateDefinition | null): Renderer {
  if (template !== null && typeof template !== 'string') {
    if (template.kind === 'chat-template') return chatTemplateRenderer(tokenizer, template.source);
    return turnRenderer(tokenizer, { id: 'custom', version: '1', description: '', definition: template });
  }
  const name = template ?? CHAT_TEMPLATE_ID;
  if (name === CHAT_TEMPLATE_ID) {
    if (tokenizer.chatTemplate === null) {
      throw new PromptError(
        'NO_CHAT_TEMPLATE',
        `the model has no chat template of its own; name one of ${PRESET_NAMES.join(', ')}`,
      );
    }
    return chatTemplateRenderer(tokenizer, tokenizer.chatTemplate);
  }
  if (!TEMPLATE_ID.test(name)) {
    const file = parseTemplateFile(name);
    checkName(file);
    return turnRenderer(tokenizer, file);
  }
  const known = preset(name);
  if (known) return turnRenderer(tokenizer, known);
  throw new PromptError(
    'UNKNOWN_TEMPLATE',
    `template ${JSON.stringify(name)} is unknown; expected one of ${TEMPLATE_NAMES.join(', ')}, or the text of a template file`,
  );
}
