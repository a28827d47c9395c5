#include "hash.h"

#include <openssl/evp.h>
#include <stdlib.h>

void hash_sha1(const void *bytes, size_t len, unsigned char *ret_digest)
{
    if (!EVP_Digest(bytes, len, ret_digest, NULL, EVP_sha1(), NULL))
        abort();
}

void hash_sha256_hex(const void *bytes, size_t len, char *ret_hex)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int n = 0;

    if (!EVP_Digest(bytes, len, digest, &n, EVP_sha256(), NULL))
        abort();
    for (unsigned int i = 0; i < n; i++) {
        ret_hex[2 * i] = digits[digest[i] >> 4];
        ret_hex[2 * i + 1] = digits[digest[i] & 15];
    }
    ret_hex[2 * n] = '\0';
}

void hash_base64(const void *bytes, size_t len, char *ret_text)
{
    (void)EVP_EncodeBlock((unsigned char *)ret_text, bytes, (int)len); /* cannot fail */
}
