/** The public interface of the client. */
export { adapterWeightsFile } from './adapter-files.ts';
export { type AttachOptions, isTerminal, type ReattachListener, type WatchOptions } from './attach.ts';
export type { RetryOptions } from './backoff.ts';
export type { CallOptions } from './call.ts';
export {
  type LoadOptions,
  LuthierClient,
  type LuthierClientOptions,
  type TrainOptions,
  type UploadOptions,
} from './client.ts';
export { type FieldViolation, LuthierError, type LuthierErrorOptions, type ResourceReference } from './error.ts';
export * from './messages.ts';
export { eachPage } from './pages.ts';
export { Status, type StatusName, statusName } from './status.ts';
export type { UploadSource } from './upload.ts';
export { fileSha256 } from './upload.ts';
