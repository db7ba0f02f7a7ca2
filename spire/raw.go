package spire

import (
	"fmt"
	"iter"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Of a hundred thousand entries that are right already, decoding each would make 70 MB of
// garbage to see so. Sync therefore leaves its pages as they came off the wire, and
// decodes what differs.

// rawCodec leaves the bytes of an answer in the message as fields that are unknown. So
// whatever lies between, such as an interceptor, still sees the message it knows;
// and what takes no notice of the codec fills the message as usual.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	data, err := proto.Marshal(v.(proto.Message))
	return mem.BufferSlice{mem.SliceBuffer(data)}, err
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m := v.(proto.Message)
	proto.Reset(m)
	m.ProtoReflect().SetUnknown(data.Materialize())
	return nil
}

// page is some of the server's entries: raw or, from a connection that takes no notice of
// rawCodec, decoded.
type page struct {
	raw     [][]byte
	decoded []*types.Entry
	next    string // the token of the next one
}

// newPage takes the entries out of an answer. Field numbers are those of
// https://github.com/spiffe/spire-api-sdk/blob/v1.15.1/proto/spire/api/server/entry/v1/entry.proto
func newPage(resp *entryv1.ListEntriesResponse) (page, error) {
	p := page{decoded: resp.GetEntries(), next: resp.GetNextPageToken()}
	err := fields(resp.ProtoReflect().GetUnknown(), func(f field) bool {
		switch f.num {
		case 1:
			p.raw = append(p.raw, f.bytes)
		case 2:
			p.next = string(f.bytes)
		}
		return true
	})
	return p, err
}

func (p page) len() int { return len(p.raw) + len(p.decoded) }

// entries decodes all of the page.
func (p page) entries() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, b := range p.raw {
			if !yield(fromRaw(b)) {
				return
			}
		}
		for _, e := range p.decoded {
			if !yield(fromProto(e)) {
				return
			}
		}
	}
}

func fromRaw(b []byte) (Entry, error) {
	var p types.Entry
	if err := proto.Unmarshal(b, &p); err != nil {
		return Entry{}, fmt.Errorf("entry from the server: %w", err)
	}
	return fromProto(&p)
}

// field is one field of a message on the wire; number is set for a varint, bytes for
// whatever has a length.
type field struct {
	num    protowire.Number
	number uint64
	bytes  []byte
}

// fields walks over a message's fields until each says false. Fields of other kinds than
// varint and bytes are left out.
func fields(b []byte, each func(field) bool) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		f := field{num: num}
		switch typ {
		case protowire.VarintType:
			f.number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if (typ == protowire.VarintType || typ == protowire.BytesType) && !each(f) {
			return nil
		}
	}
	return nil
}

// rawID is an entry's ID.
func rawID(b []byte) (id string) {
	_ = fields(b, func(f field) bool { // what cannot be read is found when it is decoded
		if f.num == 1 {
			id = string(f.bytes)
		}
		return f.num != 1
	})
	return id
}

// onWire says that b is e, but for its ID and what is the server's. Where it says no,
// changed may still find no difference: sets are compared in the order that toProto
// gives them. Field numbers are those of
// https://github.com/spiffe/spire-api-sdk/blob/v1.15.1/proto/spire/api/types/entry.proto
func onWire(b []byte, e Entry) bool {
	var (
		got           Entry // the fields that are no lists
		spiffe        bool
		parent        bool
		sel, fed, dns int
		selectors     = selectorSet(e.Selectors)
		domains       = domainSet(e.FederatesWith)
		expires       int64
		hint          []byte
	)
	same := true
	err := fields(b, func(f field) bool {
		switch f.num {
		case 2:
			spiffe = rawIDIs(f.bytes, e.SPIFFEID)
			same = spiffe
		case 3:
			parent = rawIDIs(f.bytes, e.ParentID)
			same = parent
		case 4:
			same = sel < len(selectors) && rawPairIs(f.bytes, selectors[sel].Type, selectors[sel].Value)
			sel++
		case 5:
			got.X509TTL = time.Duration(int32(f.number)) * time.Second
		case 6:
			same = fed < len(domains) && string(f.bytes) == domains[fed].Name()
			fed++
		case 7:
			got.Admin = f.number != 0
		case 8:
			got.Downstream = f.number != 0
		case 9:
			expires = int64(f.number)
		case 10:
			same = dns < len(e.DNSNames) && string(f.bytes) == e.DNSNames[dns]
			dns++
		case 12:
			got.StoreSVID = f.number != 0
		case 13:
			got.JWTTTL = time.Duration(int32(f.number)) * time.Second
		case 14:
			hint = f.bytes
		}
		return same
	})
	return err == nil && same && spiffe && parent && sel == len(selectors) && fed == len(domains) && dns == len(e.DNSNames) &&
		got.X509TTL == e.X509TTL && got.JWTTTL == e.JWTTTL && got.Admin == e.Admin && got.Downstream == e.Downstream &&
		got.StoreSVID == e.StoreSVID && expires == unix(e.ExpiresAt) && string(hint) == e.Hint
}

// rawIDIs says that b is id as types.SPIFFEID.
func rawIDIs(b []byte, id spiffeid.ID) bool {
	return !id.IsZero() && rawPairIs(b, id.TrustDomain().Name(), id.Path())
}

// rawPairIs says that b is a message with these texts as its fields 1 and 2, as are
// types.SPIFFEID and types.Selector.
func rawPairIs(b []byte, one, two string) bool {
	is1, is2 := one == "", two == ""
	err := fields(b, func(f field) bool {
		switch f.num {
		case 1:
			is1 = string(f.bytes) == one
		case 2:
			is2 = string(f.bytes) == two
		}
		return true
	})
	return err == nil && is1 && is2
}
