package spire

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

// DefaultOwner is the owner of entries where none is configured.
const DefaultOwner = "zerotrust"

// maxHint is the longest hint a SPIRE server takes, in bytes.
const maxHint = 1024

// Entry is one registration entry: workloads that show all of Selectors to an
// agent authorised for ParentID get an SVID with SPIFFEID.
type Entry struct {
	// ID is the server's key of the entry. Diff and Sync derive it (see EntryID);
	// it is ignored in a wanted entry.
	ID string

	SPIFFEID spiffeid.ID
	// ParentID is who may hand the SVID out: a node alias (see NodeAlias), or
	// <trust domain>/spire/server where the entry is itself a node alias.
	ParentID spiffeid.ID
	// Selectors is a set: order and repetition mean nothing.
	Selectors []Selector

	// X509TTL and JWTTTL are the lifetimes of issued SVIDs, in whole seconds.
	// Zero is the server's default.
	X509TTL, JWTTTL time.Duration

	// Admin gives the workload all of the server's management APIs. SVIDs of
	// admin and downstream entries are not delivered to delegates such as Cilium.
	Admin, Downstream bool
	// StoreSVID hands the SVID to an SVIDStore plugin instead of the Workload
	// API. All selectors must then have the same type.
	StoreSVID bool

	// FederatesWith is a set of other trust domains whose bundles are delivered
	// along. The server must already know each of them.
	FederatesWith []spiffeid.TrustDomain
	// DNSNames become DNS SANs in this order; the first is the common name too.
	DNSNames []string
	// Hint tells a workload with several SVIDs what this one is for.
	Hint string
	// ExpiresAt is when the server drops the entry, in whole seconds. Zero is never.
	ExpiresAt time.Time

	// RevisionNumber and CreatedAt are the server's. They are never compared
	// and are ignored in a wanted entry.
	RevisionNumber int64
	CreatedAt      time.Time
}

// String is the entry on one line: SPIFFE ID, parent and selectors.
func (e Entry) String() string {
	names := make([]string, 0, len(e.Selectors))
	for _, s := range selectorSet(e.Selectors) {
		names = append(names, s.String())
	}
	return fmt.Sprintf("%s (parent %s, selectors %s)", e.SPIFFEID, e.ParentID, strings.Join(names, " "))
}

// Selector is one attested property of a workload or a node, such as k8s:ns:default.
type Selector struct {
	// Type is the attestor ("k8s", "unix", "k8s_psat"). It holds no colon.
	Type string
	// Value is the rest, colons included ("ns:default").
	Value string
}

// String is "type:value".
func (s Selector) String() string { return s.Type + ":" + s.Value }

// ParseSelector reads "type:value"; the type ends at the first colon.
func ParseSelector(s string) (Selector, error) {
	typ, value, ok := strings.Cut(s, ":")
	if !ok || typ == "" || value == "" {
		return Selector{}, fmt.Errorf("selector %q: want type:value, such as k8s:ns:default", s)
	}
	return Selector{typ, value}, nil
}

// EntryID is the ID that entry e has under owner: the owner's name, a dot, and a
// hash of SPIFFE ID, parent and selectors. These three are what a SPIRE server
// compares to call two entries similar, so two wanted entries with the same ID
// could not both be created anyway. A change of any of them makes another
// entry; since new ones are made before old ones go, no workload is left without.
func EntryID(owner string, e Entry) string { return keyOf(e).id(owner) }

// entryKey is the hash in an entry's ID: of its SPIFFE ID, parent and selectors. A hundred
// thousand of them fit where as many IDs would not: the diff holds keys alone.
type entryKey [20]byte // 160 bits are 32 characters with no padding

var keyText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567")

func keyOf(e Entry) entryKey {
	var buf [512]byte // enough for most: no garbage
	b := buf[:0]
	part := func(s string) { // length first: no two lists of parts read the same
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(s))), s...)
	}
	part(e.SPIFFEID.String())
	part(e.ParentID.String())
	for _, s := range selectorSet(e.Selectors) {
		part(s.Type)
		part(s.Value)
	}
	sum := sha256.Sum256(b)
	return entryKey(sum[:20])
}

func (k entryKey) id(owner string) string {
	return ownerName(owner) + "." + keyText.EncodeToString(k[:])
}

// keyFromID is the key in an ID that EntryID made for owner; false for any other ID.
func keyFromID(id, owner string) (k entryKey, ok bool) {
	name := ownerName(owner)
	if len(id) != len(name)+33 || id[:len(name)] != name || id[len(name)] != '.' {
		return k, false
	}
	_, err := keyText.Decode(k[:], []byte(id[len(name)+1:]))
	return k, err == nil
}

func ownerName(owner string) string { return cmp.Or(owner, DefaultOwner) }

// owned says whether an entry on the server may be changed or deleted in owner's
// name.
func owned(e Entry, owner string) bool {
	return strings.HasPrefix(e.ID, ownerName(owner)+".") && !ciliumIdentity(e)
}

// ciliumIdentity says whether e is one of those that Cilium's operator keeps, one
// for each CiliumIdentity.
// https://github.com/cilium/cilium/blob/v1.20.2/operator/auth/spire/client.go
func ciliumIdentity(e Entry) bool { return strings.HasPrefix(e.SPIFFEID.Path(), "/identity/") }

// validOwner: a dot would make the entries of "a.b" look like those of "a".
func validOwner(owner string) error {
	name := ownerName(owner)
	ok := len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	})
	if !ok {
		return fmt.Errorf("owner %q: want at most 64 of [a-zA-Z0-9_-]", owner)
	}
	return nil
}

// Validate says what a SPIRE server, or this package, would not take in a wanted
// entry. All problems are joined in one error.
func Validate(e Entry) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	switch {
	case e.SPIFFEID.IsZero():
		bad("SPIFFE ID is missing")
	case e.SPIFFEID.Path() == "":
		bad("SPIFFE ID %s has no path", e.SPIFFEID)
	case e.SPIFFEID.Path() == "/spire" || strings.HasPrefix(e.SPIFFEID.Path(), "/spire/"):
		bad("SPIFFE ID %s: the path /spire/ is reserved for SPIRE itself", e.SPIFFEID)
	case ciliumIdentity(e):
		bad("SPIFFE ID %s: the path /identity/ belongs to Cilium's operator", e.SPIFFEID)
	}
	switch {
	case e.ParentID.IsZero():
		bad("parent ID is missing")
	case e.ParentID.Path() == "":
		bad("parent ID %s has no path", e.ParentID)
	case !e.SPIFFEID.IsZero() && e.ParentID.TrustDomain() != e.SPIFFEID.TrustDomain():
		bad("parent ID %s is of another trust domain than %s", e.ParentID, e.SPIFFEID)
	}

	if len(e.Selectors) == 0 {
		bad("selectors are missing: an entry with none would match nothing")
	}
	for i, s := range e.Selectors {
		if s.Type == "" || s.Value == "" || strings.Contains(s.Type, ":") {
			bad("selector %q: want a type without colon and a value", s)
		}
		if e.StoreSVID && i > 0 && s.Type != e.Selectors[0].Type {
			bad("selectors have types %s and %s: with StoreSVID all must be of one", e.Selectors[0].Type, s.Type)
		}
	}

	for _, ttl := range []struct {
		name string
		d    time.Duration
	}{{"X509TTL", e.X509TTL}, {"JWTTTL", e.JWTTTL}} {
		if ttl.d < 0 || ttl.d%time.Second != 0 || ttl.d/time.Second > math.MaxInt32 {
			bad("%s %s: want whole seconds, zero or more", ttl.name, ttl.d)
		}
	}
	if len(e.Hint) > maxHint {
		bad("hint has %d bytes: at most %d", len(e.Hint), maxHint)
	}
	names := map[string]bool{}
	for _, n := range e.DNSNames {
		if n == "" || names[n] {
			bad("DNS name %q is empty or there twice", n)
		}
		names[n] = true
	}
	if !e.ExpiresAt.IsZero() && (e.ExpiresAt.Unix() <= 0 || e.ExpiresAt.Nanosecond() != 0) {
		bad("ExpiresAt %s: want whole seconds after 1970", e.ExpiresAt.Format(time.RFC3339Nano))
	}
	return errors.Join(errs...)
}

// changed names the fields in which have differs from want. The server's own
// fields and the ID do not count.
func changed(have, want Entry) []string {
	var names []string
	add := func(differs bool, name string) {
		if differs {
			names = append(names, name)
		}
	}
	add(have.SPIFFEID != want.SPIFFEID, "SPIFFEID")
	add(have.ParentID != want.ParentID, "ParentID")
	add(!slices.Equal(selectorSet(have.Selectors), selectorSet(want.Selectors)), "Selectors")
	add(have.X509TTL != want.X509TTL, "X509TTL")
	add(have.JWTTTL != want.JWTTTL, "JWTTTL")
	add(have.Admin != want.Admin, "Admin")
	add(have.Downstream != want.Downstream, "Downstream")
	add(have.StoreSVID != want.StoreSVID, "StoreSVID")
	add(!slices.Equal(domainSet(have.FederatesWith), domainSet(want.FederatesWith)), "FederatesWith")
	add(!slices.Equal(have.DNSNames, want.DNSNames), "DNSNames")
	add(have.Hint != want.Hint, "Hint")
	add(unix(have.ExpiresAt) != unix(want.ExpiresAt), "ExpiresAt")
	return names
}

// updateMask has every field that changed looks at, so an update leaves alone
// whatever newer servers add.
func updateMask() *types.EntryMask {
	return &types.EntryMask{
		SpiffeId: true, ParentId: true, Selectors: true, X509SvidTtl: true, JwtSvidTtl: true,
		Admin: true, Downstream: true, StoreSvid: true, FederatesWith: true, DnsNames: true,
		Hint: true, ExpiresAt: true,
	}
}

func compareSelectors(a, b Selector) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Value, b.Value))
}

// selectorSet is s sorted and without repetition; s itself where it is so already.
func selectorSet(s []Selector) []Selector {
	ordered := true
	for i := 1; i < len(s) && ordered; i++ {
		ordered = compareSelectors(s[i-1], s[i]) < 0
	}
	if ordered {
		return s
	}
	s = slices.Clone(s)
	slices.SortFunc(s, compareSelectors)
	return slices.Compact(s)
}

func domainSet(tds []spiffeid.TrustDomain) []spiffeid.TrustDomain {
	if len(tds) < 2 {
		return tds
	}
	tds = slices.Clone(tds)
	slices.SortFunc(tds, spiffeid.TrustDomain.Compare)
	return slices.Compact(tds)
}

// unix is t in seconds; the zero time is 0, as on the wire.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func fromUnix(sec int64) time.Time {
	if sec == 0 {
		return time.Time{}
	}
	return time.Unix(sec, 0).UTC()
}
