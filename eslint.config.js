import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      complexity: ["error", 15],
      curly: ["error", "multi-line"],
      eqeqeq: "error",
      "max-lines": ["error", 400],
      "max-lines-per-function": ["error", 60],
      "no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
      "prefer-template": "error",
    },
  },
  { files: ["static/**/*.js"], languageOptions: { globals: globals.browser } },
  { files: ["static/bundle.mjs", "tests/static/*.mjs", "*.config.js"], languageOptions: { globals: globals.node } },
  // A test file's describe() is as long as it has tests.
  { files: ["tests/static/*.mjs"], rules: { "max-lines-per-function": "off" } },
  { ignores: ["static/built/", ".venv/", ".plackett/"] },
];
