/** What follows the collection in a resource's name: of `trainingJobs/{id}` the id; a bare id as it is. */
export const idOf = (name: string): string => name.slice(name.indexOf('/') + 1);
