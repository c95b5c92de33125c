//! Names of vendors and products by the lists that distributions ship (`pci.ids`, `usb.ids`). No list, no names.
//!
//! ```text
//! 8086  Intel Corporation
//! <tab>1572  Ethernet Controller X710 for 10GbE SFP+
//! C 02  Network controller          other sections begin with a letter
//! ```

use super::tree::Tree;

/// A list, unparsed: few names are asked for.
pub(super) struct Names(String);

const DIRECTORIES: &[&str] = &["usr/share/misc", "usr/share/hwdata"];

impl Names {
    fn load(tree: &Tree, file: &str) -> Self {
        let texts = DIRECTORIES.iter().map(|dir| std::fs::read(tree.path(dir).join(file)).unwrap_or_default());
        // Some lines are Latin-1.
        Self(texts.map(|b| String::from_utf8_lossy(&b).into_owned()).find(|t| !t.is_empty()).unwrap_or_default())
    }

    pub(super) fn pci(tree: &Tree) -> Self {
        Self::load(tree, "pci.ids")
    }

    pub(super) fn usb(tree: &Tree) -> Self {
        Self::load(tree, "usb.ids")
    }

    /// Vendor and product by their four digits; empty what is not in the list.
    pub(super) fn of(&self, vendor: &str, product: &str) -> (String, String) {
        let named = |line: &str, id: &str| -> Option<String> {
            let rest = line.strip_prefix(id).filter(|_| !id.is_empty())?;
            rest.strip_prefix("  ").map(|name| name.trim().to_owned())
        };
        let mut lines = self.0.lines();
        let Some(vendor) = lines.find_map(|line| named(line, vendor)) else { return Default::default() };
        let products = lines.take_while(|line| line.starts_with(['\t', '#']));
        let product = products.filter_map(|line| line.strip_prefix('\t')).find_map(|line| named(line, product));
        (vendor, product.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors_and_their_products_have_names() {
        let names = Names("# x\n1af3  A\n\t1041  Wrong\n1af4  B Inc.\n\t1041  NIC\n\t\t1af4 1100  Sub\n".to_owned());
        assert_eq!(names.of("1af4", "1041"), ("B Inc.".to_owned(), "NIC".to_owned()));
        assert_eq!(names.of("1af4", "9999").1, "");
        assert_eq!(names.of("ffff", "1041"), Default::default());
        assert_eq!(names.of("", ""), Default::default());
    }
}
