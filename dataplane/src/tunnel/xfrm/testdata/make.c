/* Writes `messages.txt`: netlink messages laid out by the C compiler from the kernel's own header, as an oracle for our offsets.
 *
 *     cc -Wall -o make make.c && ./make > messages.txt        (64-bit, little-endian)
 */
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/xfrm.h>
#include <stdio.h>
#include <string.h>

static unsigned char buffer[8192];
static struct nlmsghdr *header = (struct nlmsghdr *)buffer;

static void *begin(int type, int flags, size_t fixed)
{
    memset(buffer, 0, sizeof buffer);
    header->nlmsg_len = NLMSG_LENGTH(fixed);
    header->nlmsg_type = type;
    header->nlmsg_flags = flags;
    header->nlmsg_seq = 0x01020304;
    header->nlmsg_pid = 0x0a0b0c0d;
    return NLMSG_DATA(header);
}

static void *attribute(int type, size_t len)
{
    struct nlattr *a = (struct nlattr *)(buffer + NLMSG_ALIGN(header->nlmsg_len));
    a->nla_type = type;
    a->nla_len = NLA_HDRLEN + len;
    header->nlmsg_len = NLMSG_ALIGN(header->nlmsg_len) + NLA_ALIGN(a->nla_len);
    return a + 1;
}

static void u32(int type, __u32 value) { memcpy(attribute(type, 4), &value, 4); }

static void end(const char *name)
{
    printf("%s ", name);
    for (unsigned i = 0; i < header->nlmsg_len; i++)
        printf("%02x", buffer[i]);
    printf("\n");
}

static void selector(struct xfrm_selector *s)
{
    s->family = AF_INET;
    inet_pton(AF_INET, "10.2.0.0", &s->daddr);
    inet_pton(AF_INET, "10.1.4.0", &s->saddr);
    s->prefixlen_d = 16;
    s->prefixlen_s = 24;
    s->dport = htons(443);
    s->dport_mask = 0xffff;
    s->sport = htons(1024);
    s->sport_mask = htons(0xfc00);
    s->proto = 6;
    s->ifindex = 7;
}

static void lifetimes(struct xfrm_lifetime_cfg *l)
{
    l->soft_byte_limit = 1001;
    l->hard_byte_limit = 1002;
    l->soft_packet_limit = 1003;
    l->hard_packet_limit = XFRM_INF;
    l->soft_add_expires_seconds = 1005;
    l->hard_add_expires_seconds = 1006;
    l->soft_use_expires_seconds = 0;
    l->hard_use_expires_seconds = 1008;
}

static void state(struct xfrm_usersa_info *p, int with_selector)
{
    if (with_selector)
        selector(&p->sel);
    inet_pton(AF_INET, "192.0.2.2", &p->id.daddr);
    p->id.spi = htonl(0xc0ffee01);
    p->id.proto = 50;
    inet_pton(AF_INET, "192.0.2.1", &p->saddr);
    lifetimes(&p->lft);
    p->curlft.bytes = 2001;
    p->curlft.packets = 2002;
    p->curlft.add_time = 2003;
    p->curlft.use_time = 2004;
    p->reqid = 77;
    p->family = AF_INET;
    p->mode = XFRM_MODE_TUNNEL;
    p->flags = XFRM_STATE_ESN | XFRM_STATE_DECAP_DSCP;
}

static void aead(const char *name, unsigned key_bytes)
{
    struct xfrm_algo_aead *a = attribute(XFRMA_ALG_AEAD, sizeof *a + key_bytes);
    strcpy(a->alg_name, name);
    a->alg_key_len = key_bytes * 8;
    a->alg_icv_len = 128;
    for (unsigned i = 0; i < key_bytes; i++)
        a->alg_key[i] = i + 1;
}

static void mark(void)
{
    struct xfrm_mark *m = attribute(XFRMA_MARK, sizeof *m);
    m->v = 0x42;
    m->m = 0xff;
}

static void policy(struct xfrm_userpolicy_info *p)
{
    selector(&p->sel);
    lifetimes(&p->lft);
    p->priority = 375423;
    p->index = 0x1a9;
    p->dir = XFRM_POLICY_OUT;
    p->action = XFRM_POLICY_ALLOW;
}

static void template(struct xfrm_user_tmpl *t)
{
    inet_pton(AF_INET6, "2001:db8::2", &t->id.daddr);
    inet_pton(AF_INET6, "2001:db8::1", &t->saddr);
    t->id.spi = htonl(0xdeadbeef);
    t->id.proto = 50;
    t->family = AF_INET6;
    t->reqid = 9;
    t->mode = XFRM_MODE_TUNNEL;
    t->optional = 1;
    t->aalgos = 0x11111111;
    t->ealgos = 0x22222222;
    t->calgos = 0x33333333;
}

int main(void)
{
    state(begin(XFRM_MSG_NEWSA, 0, sizeof(struct xfrm_usersa_info)), 1);
    u32(XFRMA_SA_EXTRA_FLAGS, XFRM_SA_XFLAG_DONT_ENCAP_DSCP | XFRM_SA_XFLAG_OSEQ_MAY_WRAP);
    aead("rfc4106(gcm(aes))", 20);
    struct xfrm_encap_tmpl *e = attribute(XFRMA_ENCAP, sizeof *e);
    e->encap_type = 2;
    e->encap_sport = htons(4500);
    e->encap_dport = htons(61234);
    mark();
    u32(XFRMA_SET_MARK, 0x1234);
    u32(XFRMA_SET_MARK_MASK, 0xffff);
    struct xfrm_replay_state_esn *r = attribute(XFRMA_REPLAY_ESN_VAL, sizeof *r + 8);
    r->bmp_len = 2;
    r->oseq = 5;
    r->oseq_hi = 1;
    r->seq = 9;
    r->seq_hi = 2;
    r->replay_window = 64;
    r->bmp[0] = 0x105; /* numbers 1, 3 and 9 */
    u32(XFRMA_IF_ID, 31);
    end("new-state");

    struct xfrm_usersa_info *p = begin(XFRM_MSG_NEWSA, NLM_F_MULTI, sizeof *p);
    inet_pton(AF_INET6, "2001:db8::2", &p->id.daddr);
    inet_pton(AF_INET6, "2001:db8::1", &p->saddr);
    p->id.spi = htonl(0x100);
    p->id.proto = 50;
    p->family = AF_INET6;
    p->mode = XFRM_MODE_TRANSPORT;
    p->replay_window = 32;
    aead("rfc7539esp(chacha20,poly1305)", 36);
    struct xfrm_replay_state *v = attribute(XFRMA_REPLAY_VAL, sizeof *v);
    v->oseq = 3;
    v->seq = 8;
    v->bitmap = 0x81;
    end("new-state-6");

    struct xfrm_usersa_id *id = begin(XFRM_MSG_DELSA, 0, sizeof *id);
    inet_pton(AF_INET, "192.0.2.2", &id->daddr);
    id->spi = htonl(0xc0ffee01);
    id->family = AF_INET;
    id->proto = 50;
    state(attribute(XFRMA_SA, sizeof(struct xfrm_usersa_info)), 1);
    aead("rfc4106(gcm(aes))", 20);
    mark();
    end("delete-state");

    struct xfrm_user_expire *x = begin(XFRM_MSG_EXPIRE, 0, sizeof *x);
    state(&x->state, 1);
    x->hard = 1;
    mark();
    end("expire");

    struct xfrm_usersa_flush *f = begin(XFRM_MSG_FLUSHSA, 0, sizeof *f);
    f->proto = 50;
    header->nlmsg_len = NLMSG_ALIGN(header->nlmsg_len);
    end("flush-states");

    policy(begin(XFRM_MSG_NEWPOLICY, 0, sizeof(struct xfrm_userpolicy_info)));
    template(attribute(XFRMA_TMPL, sizeof(struct xfrm_user_tmpl)));
    struct xfrm_userpolicy_type *t = attribute(XFRMA_POLICY_TYPE, sizeof *t);
    t->type = XFRM_POLICY_TYPE_MAIN;
    mark();
    u32(XFRMA_IF_ID, 31);
    end("new-policy");

    struct xfrm_userpolicy_id *pi = begin(XFRM_MSG_DELPOLICY, 0, sizeof *pi);
    pi->index = 0x1a9;
    pi->dir = XFRM_POLICY_OUT;
    policy(attribute(XFRMA_POLICY, sizeof(struct xfrm_userpolicy_info)));
    end("delete-policy");

    struct xfrm_user_polexpire *px = begin(XFRM_MSG_POLEXPIRE, 0, sizeof *px);
    policy(&px->pol);
    px->hard = 1;
    end("expire-policy");

    struct xfrm_aevent_id *ae = begin(XFRM_MSG_NEWAE, 0, sizeof *ae);
    inet_pton(AF_INET, "192.0.2.2", &ae->sa_id.daddr);
    ae->sa_id.spi = htonl(0xc0ffee01);
    ae->sa_id.family = AF_INET;
    ae->sa_id.proto = 50;
    inet_pton(AF_INET, "192.0.2.1", &ae->saddr);
    ae->flags = XFRM_AE_CU;
    ae->reqid = 77;
    v = attribute(XFRMA_REPLAY_VAL, sizeof *v);
    v->oseq = 3;
    v->seq = 8;
    v->bitmap = 0x81;
    struct xfrm_lifetime_cur *c = attribute(XFRMA_LTIME_VAL, sizeof *c);
    c->bytes = 2001;
    c->packets = 2002;
    c->add_time = 2003;
    c->use_time = 2004;
    end("usage");

    struct xfrm_user_acquire *a = begin(XFRM_MSG_ACQUIRE, NLM_F_REQUEST | NLM_F_ACK, sizeof *a);
    header->nlmsg_pid = 0;
    inet_pton(AF_INET6, "2001:db8::2", &a->id.daddr);
    inet_pton(AF_INET6, "2001:db8::1", &a->saddr);
    a->id.proto = 50;
    a->sel.family = AF_INET;
    inet_pton(AF_INET, "10.2.3.4", &a->sel.daddr);
    inet_pton(AF_INET, "10.1.4.5", &a->sel.saddr);
    a->sel.prefixlen_d = a->sel.prefixlen_s = 32;
    a->sel.dport = htons(443);
    a->sel.dport_mask = 0xffff;
    a->sel.sport = htons(1025);
    a->sel.sport_mask = 0xffff;
    a->sel.proto = 6;
    policy(&a->policy);
    a->aalgos = 0x11111111;
    a->ealgos = 0x22222222;
    a->calgos = 0x33333333;
    struct xfrm_user_tmpl *tmpl = attribute(XFRMA_TMPL, sizeof *tmpl);
    template(tmpl);
    tmpl->optional = 0;
    mark();
    u32(XFRMA_IF_ID, 31);
    end("acquire");
    return 0;
}
