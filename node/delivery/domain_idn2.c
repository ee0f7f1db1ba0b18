/* See domain_idn2.h. */
#include "node/delivery/domain_idn2.h"

#include <idn2.h>
#include <stdio.h>

bool domain_to_ascii(const char *domain, char *out, size_t n)
{
    bool ascii = true;
    for (const char *p = domain; *p; p++)
        ascii &= (unsigned char)*p < 0x80;
    char *text = NULL;
    /* ASCII names aren't looked at: those with an underscore and the like exist and get mail. */
    if (!ascii && idn2_to_ascii_8z(domain, &text, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL) != IDN2_OK)
        return false;
    int len = snprintf(out, n, "%s", ascii ? domain : text);
    idn2_free(text);
    return len > 0 && (size_t)len < n;
}
