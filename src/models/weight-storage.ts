import type { ModelMetadata, WeightStorage } from '../engine/engine.ts';
import { LoadIn } from '../gen/luthier/v1/common.ts';

/** What the engine is asked for. 16 bits are f16 where the files hold mostly that, which loses nothing, and bf16 otherwise, which fits every number. */
export function weightStorage(loadIn: LoadIn, metadata: Pick<ModelMetadata, 'storageType'>): WeightStorage {
  switch (loadIn) {
    case LoadIn.LOAD_IN_16BIT:
      return metadata.storageType === 'f16' ? 'f16' : 'bf16';
    case LoadIn.LOAD_IN_8BIT:
      return 'int8';
    case LoadIn.LOAD_IN_4BIT:
      return 'nf4_double_quant';
    case LoadIn.LOAD_IN_4BIT_PLAIN:
      return 'nf4';
    default:
      return 'stored';
  }
}
