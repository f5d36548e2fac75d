/** Adapters in memory: loaded once however many ask, kept for a while after the last one let go. */
import type { AdapterHandle, BaseModel } from '../engine/engine.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import type { ModelLease } from '../models/model-registry.ts';
import { checkBaseHash } from './adapter-errors.ts';
import type { AdapterLease, StoredAdapter } from './adapter-store.ts';

/** Adapters kept in memory though nobody uses them: the ones used last. */
const IDLE_LIMIT = 8;

interface Entry {
  readonly model: BaseModel;
  readonly handle: Promise<AdapterHandle>;
  users: number;
}

export class LoadedAdapters {
  /** By adapter name; the one used last stands last. */
  readonly #entries = new Map<string, Entry>();
  /** Entries of a base that was unloaded and loaded again, until their last user lets go. */
  readonly #outdated = new Set<Entry>();

  /** @throws LuthierError ADAPTER_MISMATCH, ADAPTER_CORRUPT, OUT_OF_MEMORY */
  async acquire(adapter: StoredAdapter, base: ModelLease): Promise<AdapterLease> {
    checkBaseHash(adapter.name, adapter.origin.baseModelHash, base);
    const entry = this.#entry(adapter, base.model);
    // Counted before the first await: a load under way is use, too.
    entry.users += 1;
    try {
      const handle = await entry.handle;
      let held = true;
      const release = (): void => {
        if (held) this.#release(entry);
        held = false;
      };
      return { adapter, handle, release };
    } catch (error) {
      entry.users -= 1;
      if (this.#entries.get(adapter.name) === entry) this.#entries.delete(adapter.name);
      throw toLuthierError(error);
    }
  }

  /** Leases of an adapter held now. */
  users(name: string): number {
    return this.#entries.get(name)?.users ?? 0;
  }

  /** Frees an adapter that nobody uses. */
  forget(name: string): void {
    const entry = this.#entries.get(name);
    if (!entry) return;
    this.#entries.delete(name);
    this.#retire(entry);
  }

  close(): void {
    for (const name of [...this.#entries.keys()]) this.forget(name);
  }

  #entry(adapter: StoredAdapter, model: BaseModel): Entry {
    const known = this.#entries.get(adapter.name);
    this.#entries.delete(adapter.name);
    if (known && known.model !== model) this.#retire(known);
    const entry = known?.model === model ? known : { model, handle: model.loadAdapter(adapter.folder), users: 0 };
    this.#entries.set(adapter.name, entry);
    return entry;
  }

  #release(entry: Entry): void {
    entry.users -= 1;
    if (entry.users === 0 && this.#outdated.delete(entry)) closeHandle(entry);
    const idle = [...this.#entries].filter(([, { users }]) => users === 0);
    for (const [name] of idle.slice(0, Math.max(0, idle.length - IDLE_LIMIT))) this.forget(name);
  }

  #retire(entry: Entry): void {
    if (entry.users === 0) closeHandle(entry);
    else this.#outdated.add(entry);
  }
}

/** A load that failed has told its callers; there is nothing to close. */
function closeHandle({ handle }: Entry): void {
  handle.then(
    (loaded) => loaded.close(),
    () => undefined,
  );
}
