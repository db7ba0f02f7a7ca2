package main

import "reflect"

// fieldOf is the field of a struct whose tag is the name of this input or output; nil if
// there is none.
func fieldOf(s any, name string) any {
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if tagOf(v.Type().Field(i)) == name {
			return v.Field(i).Interface()
		}
	}
	return nil
}

// fieldNames are the names of all inputs or outputs of a struct, in its order.
func fieldNames(s any) []string {
	var all []string
	t := reflect.TypeOf(s)
	for i := range t.NumField() {
		all = append(all, tagOf(t.Field(i)))
	}
	return all
}

func tagOf(f reflect.StructField) string {
	if name, ok := f.Tag.Lookup("input"); ok {
		return name
	}
	return f.Tag.Get("output")
}
