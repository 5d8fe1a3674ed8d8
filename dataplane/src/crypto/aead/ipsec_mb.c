/* What the Rust side needs of Intel's multi-buffer library. In C, because the layout of its structures changes from
 * release to release and only its header knows it. The manager is only read after it was made. */
#include <intel-ipsec-mb.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

size_t softdpu_mb_key_size(void) { return sizeof(struct gcm_key_data); }

/* NULL where the library does not run here. */
IMB_MGR *softdpu_mb_new(void)
{
	IMB_MGR *m = alloc_mb_mgr(0);
	if (m == NULL)
		return NULL;
	init_mb_mgr_auto(m, NULL);
	if (imb_get_errno(m) != 0) {
		free_mb_mgr(m);
		return NULL;
	}
	return m;
}

/* `out`: softdpu_mb_key_size() bytes, aligned to 64. */
void softdpu_mb_expand(IMB_MGR *m, int is_256, const uint8_t *key, void *out)
{
	if (is_256)
		IMB_AES256_GCM_PRE(m, key, (struct gcm_key_data *)out);
	else
		IMB_AES128_GCM_PRE(m, key, (struct gcm_key_data *)out);
}

/* In place; `tag`: 16 bytes. */
void softdpu_mb_seal(IMB_MGR *m, int is_256, const void *key, const uint8_t *nonce, const uint8_t *aad, uint64_t aad_len,
		     uint8_t *text, uint64_t len, uint8_t *tag)
{
	struct gcm_context_data c;
	if (is_256)
		IMB_AES256_GCM_ENC(m, key, &c, text, text, len, nonce, aad, aad_len, tag, 16);
	else
		IMB_AES128_GCM_ENC(m, key, &c, text, text, len, nonce, aad, aad_len, tag, 16);
}

/* In place; `tag`: the 16 bytes that the right packet would have. */
void softdpu_mb_open(IMB_MGR *m, int is_256, const void *key, const uint8_t *nonce, const uint8_t *aad, uint64_t aad_len,
		     uint8_t *text, uint64_t len, uint8_t *tag)
{
	struct gcm_context_data c;
	if (is_256)
		IMB_AES256_GCM_DEC(m, key, &c, text, text, len, nonce, aad, aad_len, tag, 16);
	else
		IMB_AES128_GCM_DEC(m, key, &c, text, text, len, nonce, aad, aad_len, tag, 16);
}
