package spire

import (
	"fmt"
)

// Diff decides how a server with the entries have comes to have all of want under
// owner ("" is DefaultOwner). It has no I/O and changes neither list.
//
// An entry of the owner's is matched to a wanted one by ID first, then by SPIFFE
// ID, parent and selectors; what matches nothing is deleted. Entries of others
// are never part of Update or Delete. Wanted entries that are not valid, are
// there twice, or are already covered by somebody else's entry go to Conflicts.
func Diff(have, want []Entry, owner string) Plan {
	d := newDiffer(want, owner)
	for _, h := range have {
		d.add(h)
	}
	return d.plan()
}

// differ takes the server's entries one at a time. It keeps of them only what
// differs, so a whole table can be streamed through it. For each wanted entry it
// holds about 50 bytes.
type differ struct {
	owner string
	want  []Entry
	keys  []entryKey         // of want
	byKey map[entryKey]int32 // index into want

	done    []bool          // matched by ID
	twins   map[int32]Entry // foreign entries with the key or the ID of a wanted one
	spare   []Entry         // the owner's, matched by no ID
	updates []Change
	refused []Change // invalid or double

	unchanged, foreign int
}

func newDiffer(want []Entry, owner string) *differ {
	d := &differ{
		owner: owner,
		want:  want,
		keys:  make([]entryKey, len(want)),
		byKey: make(map[entryKey]int32, len(want)),
		done:  make([]bool, len(want)),
		twins: map[int32]Entry{},
	}
	for i, w := range want {
		d.keys[i] = keyOf(w)
		if first, ok := d.byKey[d.keys[i]]; ok {
			d.refuse(i, Entry{}, fmt.Sprintf("wanted twice: entry %d has the same SPIFFE ID, parent and selectors as entry %d", i, first))
			continue
		}
		// Also what is refused stays known by its ID: a mistake in a wanted entry
		// must not have the good one on the server deleted.
		d.byKey[d.keys[i]] = int32(i)
		if err := Validate(w); err != nil {
			d.refuse(i, Entry{}, err.Error())
		}
	}
	return d
}

func (d *differ) refuse(i int, have Entry, reason string) {
	d.done[i] = true
	d.refused = append(d.refused, Change{Have: have, Want: d.wanted(i, d.id(i)), Reason: reason})
}

func (d *differ) id(i int) string { return d.keys[i].id(d.owner) }

// wanted is want[i] as it will be on the server.
func (d *differ) wanted(i int, id string) Entry {
	w := d.want[i]
	w.ID, w.RevisionNumber = id, 0
	w.CreatedAt = fromUnix(0)
	return w
}

func (d *differ) addPage(p page) error {
	for _, b := range p.raw {
		if err := d.addRaw(b); err != nil {
			return err
		}
	}
	for _, e := range p.decoded {
		h, err := fromProto(e)
		if err != nil {
			return err
		}
		d.add(h)
	}
	return nil
}

// addRaw takes one entry of the server as it came off the wire. Most are right already:
// those are not even decoded.
func (d *differ) addRaw(b []byte) error {
	if k, ok := keyFromID(rawID(b), d.owner); ok {
		if i, ok := d.byKey[k]; ok && !d.done[i] && onWire(b, d.want[i]) {
			d.done[i] = true
			d.unchanged++
			return nil
		}
	}
	h, err := fromRaw(b)
	if err != nil {
		return err
	}
	d.add(h)
	return nil
}

// add takes one entry of the server.
func (d *differ) add(h Entry) {
	named, byID := int32(0), false
	if k, ok := keyFromID(h.ID, d.owner); ok {
		named, byID = d.byKey[k]
	}
	if !owned(h, d.owner) {
		d.foreign++
		if byID {
			d.twins[named] = h
		}
		if i, ok := d.byKey[keyOf(h)]; ok {
			d.twins[i] = h
		}
		return
	}
	switch {
	case !byID:
		d.spare = append(d.spare, h)
	case !d.done[named]: // done: refused
		d.match(int(named), h)
	}
}

func (d *differ) match(i int, h Entry) {
	d.done[i] = true
	if fields := changed(h, d.want[i]); len(fields) > 0 {
		d.updates = append(d.updates, Change{Have: h, Want: d.wanted(i, h.ID), Fields: fields})
		return
	}
	d.unchanged++
}

// plan is to be called once, after the last add.
func (d *differ) plan() Plan {
	p := Plan{Owner: ownerName(d.owner), Foreign: d.foreign}
	for _, h := range d.spare {
		// An entry of ours with another ID but with the key of a missing one, made
		// by hand or by another version: the server would answer a create
		// with AlreadyExists, so it is kept as it is named.
		if i, ok := d.byKey[keyOf(h)]; ok && !d.done[i] {
			d.match(int(i), h)
			continue
		}
		p.Delete = append(p.Delete, Change{Have: h})
	}
	missing := 0
	for i := range d.want {
		if twin, ok := d.twins[int32(i)]; ok && !d.done[i] {
			what := "SPIFFE ID, parent and selectors"
			if twin.ID == d.id(i) {
				what = "entry ID"
			}
			d.refuse(i, twin, fmt.Sprintf("entry %s of somebody else already has this %s", twin.ID, what))
		}
		if !d.done[i] {
			missing++
		}
	}
	if missing > 0 {
		p.Create = make([]Change, 0, missing)
	}
	for i := range d.want {
		if !d.done[i] {
			p.Create = append(p.Create, Change{Want: d.wanted(i, d.id(i))})
		}
	}
	p.Update, p.Conflicts, p.Unchanged = d.updates, d.refused, d.unchanged
	return p
}
