/* Waits in a function whose unwind table says: compute the caller's frame by jumping back to where
 * you are, for ever. */
#include <stdio.h>
#include <sys/syscall.h>

__attribute__((noinline)) static void wait_for_ever(void) {
  long result;
  /* DW_CFA_def_cfa_expression of three bytes: DW_OP_skip by -3. */
  __asm__ volatile(".cfi_escape 0x0f, 0x03, 0x2f, 0xfd, 0xff\n\t"
                   "syscall"
                   : "=a"(result)
                   : "a"(SYS_pause)
                   : "rcx", "r11", "memory");
}

int main(void) {
  puts("ready");
  fflush(stdout);
  for (;;)
    wait_for_ever();
}
