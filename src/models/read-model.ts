import type { Engine, ModelMetadata } from '../engine/engine.ts';
import { hasChatTemplate } from './chat-template.ts';
import { type FileStamp, stampFiles } from './model-files.ts';

/** What a model's files said when they were read. */
export interface ModelReading {
  readonly metadata: ModelMetadata;
  readonly hasChatTemplate: boolean;
  readonly files: readonly FileStamp[];
}

/** Reads a model's files. @throws EngineError MODEL_NOT_FOUND, MODEL_CORRUPT, MODEL_UNSUPPORTED */
export async function readModel(engine: Pick<Engine, 'readMetadata'>, path: string): Promise<ModelReading> {
  // Before the rest: a change meanwhile is found by the next look.
  const files = await stampFiles(path);
  const metadata = await engine.readMetadata(path);
  return { metadata, hasChatTemplate: await hasChatTemplate(metadata.tokenizer), files };
}
