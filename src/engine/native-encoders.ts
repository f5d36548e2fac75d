import type { NativeEncoders } from '../tokenizer/native/encoders.ts';
import { type Addons, INSTALLED_ADDONS } from './addon-files.ts';
import { EngineError } from './errors.ts';

/**
 * The encoders of the installed addon, for this thread. Either build has them, and the smaller one is asked first.
 * @returns Null where no build can be loaded.
 */
export function nativeEncoders(addons: Addons = INSTALLED_ADDONS): NativeEncoders | null {
  for (const load of [addons.cpu, addons.cuda]) {
    try {
      const exported = load() as Partial<NativeEncoders>;
      if (exported.NativeByteLevelEncoder) return exported as NativeEncoders;
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
    }
  }
  return null;
}
