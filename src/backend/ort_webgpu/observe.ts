type Method = (...args: never[]) => unknown;

/** Tells `seen` of each call of a method of this object, after it. @returns what ends that */
export function observe<T extends object, K extends keyof T>(
  target: T,
  name: K,
  seen: (args: Parameters<Extract<T[K], Method>>, result: ReturnType<Extract<T[K], Method>>) => void,
): () => void {
  const before = Object.getOwnPropertyDescriptor(target, name);
  const method = target[name] as Method;
  const value = (...args: Parameters<Extract<T[K], Method>>) => {
    const result = method.apply(target, args) as ReturnType<Extract<T[K], Method>>;
    seen(args, result);
    return result;
  };
  Object.defineProperty(target, name, { value, configurable: true, writable: true });
  return () => {
    if (before) Object.defineProperty(target, name, before);
    else Reflect.deleteProperty(target, name);
  };
}
