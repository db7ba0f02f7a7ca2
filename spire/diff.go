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
// differs, so a whole table can be streamed through it.
type differ struct {
	owner string
	want  []Entry
	ids   []string       // of want
	byID  map[string]int // index into want

	done    []bool        // matched by ID
	twins   map[int]Entry // foreign entries with the key or the ID of a wanted one
	spare   []Entry       // the owner's, matched by no ID
	updates []Change
	refused []Change // invalid or double

	unchanged, foreign int
}

func newDiffer(want []Entry, owner string) *differ {
	d := &differ{
		owner: owner,
		want:  want,
		ids:   make([]string, len(want)),
		byID:  make(map[string]int, len(want)),
		done:  make([]bool, len(want)),
		twins: map[int]Entry{},
	}
	for i, w := range want {
		d.ids[i] = EntryID(owner, w)
		if first, ok := d.byID[d.ids[i]]; ok {
			d.refuse(i, Entry{}, fmt.Sprintf("wanted twice: entry %d has the same SPIFFE ID, parent and selectors as entry %d", i, first))
			continue
		}
		// Also what is refused stays known by its ID: a mistake in a wanted entry
		// must not have the good one on the server deleted.
		d.byID[d.ids[i]] = i
		if err := Validate(w); err != nil {
			d.refuse(i, Entry{}, err.Error())
		}
	}
	return d
}

func (d *differ) refuse(i int, have Entry, reason string) {
	d.done[i] = true
	d.refused = append(d.refused, Change{Have: have, Want: d.wanted(i, d.ids[i]), Reason: reason})
}

// wanted is want[i] as it will be on the server.
func (d *differ) wanted(i int, id string) Entry {
	w := d.want[i]
	w.ID, w.RevisionNumber = id, 0
	w.CreatedAt = fromUnix(0)
	return w
}

// add takes one entry of the server.
func (d *differ) add(h Entry) {
	if !owned(h, d.owner) {
		d.foreign++
		for _, id := range []string{EntryID(d.owner, h), h.ID} {
			if i, ok := d.byID[id]; ok {
				d.twins[i] = h
			}
		}
		return
	}
	switch i, ok := d.byID[h.ID]; {
	case !ok:
		d.spare = append(d.spare, h)
	case !d.done[i]: // done: refused
		d.match(i, h)
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
		if i, ok := d.byID[EntryID(d.owner, h)]; ok && !d.done[i] {
			d.match(i, h)
			continue
		}
		p.Delete = append(p.Delete, Change{Have: h})
	}
	for i := range d.want {
		switch twin, ok := d.twins[i]; {
		case d.done[i]:
		case ok:
			what := "SPIFFE ID, parent and selectors"
			if twin.ID == d.ids[i] {
				what = "entry ID"
			}
			d.refuse(i, twin, fmt.Sprintf("entry %s of somebody else already has this %s", twin.ID, what))
		default:
			p.Create = append(p.Create, Change{Want: d.wanted(i, d.ids[i])})
		}
	}
	p.Update, p.Conflicts, p.Unchanged = d.updates, d.refused, d.unchanged
	return p
}
