// Takes the place of the suite's testharnessreport.js: hands the results to the
// page that opened this one.
setup({ output: false, timeout_multiplier: TIMEOUT_MULTIPLIER });
add_completion_callback((tests, harness) => {
  opener.postMessage(
    {
      kind: "results",
      status: harness.status,
      message: harness.message,
      tests: tests.map(({ name, status, message }) => ({ name, status, message })),
    },
    "*",
  );
});
