/** Keeps one core busy until it is killed. */
for (let i = 0;; i = (i * 1664525 + 1013904223) >>> 0);
