import type { StoredAdapter } from '../adapters/adapter-store.ts';
import type { Taken } from '../adapters/adapter-store-sqlite.ts';
import { Adapter } from '../gen/luthier/v1/adapter_service.ts';

/** A stored adapter as the contract shows it. */
export function adapterMessage({ info, origin, ...adapter }: StoredAdapter): Adapter {
  const { templateId: id, templateHash: hash } = origin;
  return Adapter.create({
    name: adapter.name,
    baseModel: adapter.baseModel,
    baseModelHash: origin.baseModelHash,
    r: info.r,
    loraAlpha: info.loraAlpha,
    useRslora: info.useRslora,
    targetModules: [...info.targetModules],
    parameterCount: info.parameterCount,
    sizeBytes: adapter.sizeBytes,
    sha256: info.sha256,
    template: id === '' ? undefined : { id, version: adapter.templateVersion, hash },
    trainingJob: adapter.trainingJob,
    createTime: adapter.createTime,
  });
}

/** What an import and an upload answer. */
export const takenMessage = ({ adapter, warnings }: Taken): { adapter: Adapter; warnings: string[] } => ({
  adapter: adapterMessage(adapter),
  warnings: [...warnings],
});
