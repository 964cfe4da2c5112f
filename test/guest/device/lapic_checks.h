#pragma once

/* What holds for the local APIC in xAPIC and x2APIC mode alike. */
void check_lapic(void);
